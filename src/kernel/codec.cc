#include "kernel/codec.h"

#include <algorithm>
#include <array>
#include <bit>
#include <limits>

namespace ashlar::kernel {

namespace {

constexpr std::uint32_t block_size_max = 4096;  // the smallest page of any kernel
constexpr std::uint32_t segment_size_min = 4096;
constexpr std::uint32_t preferred_size_max = 256U << 20;  // the driver's limit, in bytes
constexpr unsigned block_shift_max = 12;
constexpr unsigned preferred_shift_max = 28;  // the same, as a shift
constexpr std::uint32_t discard_granularity_default = 4096;
constexpr std::uint64_t discard_max_default = std::uint64_t{1} << 30;

constexpr std::uint64_t zone_size_max = std::uint64_t{1} << 40;  // its sectors fit in 32 bits

// The kernel counts a disk's bytes in a signed 64-bit offset.
constexpr std::uint64_t sectors_max = (std::uint64_t{1} << (63 - sector_shift)) - 1;

std::uint8_t shift_of(std::uint32_t power_of_two) noexcept {
    return static_cast<std::uint8_t>(std::countr_zero(power_of_two));
}

// Bytes as a 32-bit count of sectors that is a multiple of the logical block.
std::uint32_t clipped_sectors(std::uint64_t bytes, std::uint32_t logical_block_size) noexcept {
    const std::uint32_t block = logical_block_size >> sector_shift;
    const std::uint64_t sectors =
        std::min<std::uint64_t>(bytes >> sector_shift, std::numeric_limits<std::uint32_t>::max());
    const auto clipped = static_cast<std::uint32_t>(sectors);
    return clipped - clipped % block;
}

abi::ParamBasic encode_basic(const Geometry& geometry, const Capabilities& capabilities,
                             const ParamsOptions& options) noexcept {
    abi::ParamBasic basic{};
    if (capabilities.read_only) basic.attrs |= abi::attr_read_only;
    if (geometry.rotational) basic.attrs |= abi::attr_rotational;
    if (capabilities.flush) {
        basic.attrs |= abi::attr_volatile_cache;
        if (options.fua) basic.attrs |= abi::attr_fua;
    }
    basic.logical_bs_shift = shift_of(geometry.logical_block_size);
    basic.physical_bs_shift = shift_of(geometry.physical_block_size);
    basic.io_min_shift = geometry.io_min == 0 ? basic.physical_bs_shift : shift_of(geometry.io_min);
    // Shift 0 says one byte, which the block layer rounds down to none.
    basic.io_opt_shift = geometry.io_opt == 0 ? std::uint8_t{0} : shift_of(geometry.io_opt);
    basic.max_sectors = clipped_sectors(options.io_max_bytes, geometry.logical_block_size);
    basic.chunk_sectors = geometry.chunk >> sector_shift;
    if (geometry.zones.size != 0) {
        basic.chunk_sectors = static_cast<std::uint32_t>(geometry.zones.size >> sector_shift);
        basic.max_sectors = std::min(basic.max_sectors, basic.chunk_sectors);
    }
    basic.dev_sectors = geometry.size >> sector_shift;
    return basic;
}

struct ChecksumRule {
    Checksum checksum = Checksum::none;
    std::uint8_t type = abi::pi_csum_none;
    std::uint8_t bytes = 0;  // of what the block layer computes
};
constexpr std::array checksum_rules = {
    ChecksumRule{Checksum::none, abi::pi_csum_none, 0},
    ChecksumRule{Checksum::ip, abi::pi_csum_ip, 8},
    ChecksumRule{Checksum::crc16_t10dif, abi::pi_csum_crc16_t10dif, 8},
    ChecksumRule{Checksum::crc64_nvme, abi::pi_csum_crc64_nvme, 16},
};
const ChecksumRule& rule_of(Checksum checksum) noexcept {
    return checksum_rules[static_cast<std::size_t>(checksum)];
}
std::optional<Checksum> checksum_of(std::uint8_t type) noexcept {
    const auto* const rule = std::ranges::find(checksum_rules, type, &ChecksumRule::type);
    if (rule == checksum_rules.end()) return std::nullopt;
    return rule->checksum;
}

abi::ParamDiscard encode_discard(const Geometry& geometry,
                                 const Capabilities& capabilities) noexcept {
    const std::uint32_t block = geometry.logical_block_size;
    abi::ParamDiscard discard{};
    discard.discard_granularity = geometry.discard_granularity != 0
                                      ? geometry.discard_granularity
                                      : std::max(discard_granularity_default, block);
    if (capabilities.discard) {
        const std::uint64_t bytes =
            geometry.discard_max != 0 ? geometry.discard_max : discard_max_default;
        discard.max_discard_sectors = clipped_sectors(bytes, block);
    }
    if (capabilities.write_zeroes) {
        const std::uint64_t bytes =
            geometry.write_zeroes_max != 0 ? geometry.write_zeroes_max : discard_max_default;
        discard.max_write_zeroes_sectors = clipped_sectors(bytes, block);
    }
    discard.max_discard_segments = 1;  // the driver takes no other
    return discard;
}

int decode_basic(const abi::ParamBasic& basic, DecodedParams& out) noexcept {
    if (basic.logical_bs_shift < sector_shift || basic.physical_bs_shift < basic.logical_bs_shift ||
        basic.physical_bs_shift > preferred_shift_max || basic.io_min_shift > preferred_shift_max ||
        basic.io_opt_shift > preferred_shift_max) {
        return EINVAL;
    }
    if (basic.dev_sectors > sectors_max) return EOVERFLOW;

    Geometry& geometry = out.geometry;
    geometry.size = basic.dev_sectors << sector_shift;
    geometry.logical_block_size = 1U << basic.logical_bs_shift;
    geometry.physical_block_size = 1U << basic.physical_bs_shift;
    // The block layer raises io_min to the physical block and lowers an io_opt below it to none.
    geometry.io_min = 1U << std::max(basic.io_min_shift, basic.physical_bs_shift);
    geometry.io_opt = basic.io_opt_shift < basic.physical_bs_shift ? 0 : 1U << basic.io_opt_shift;
    geometry.rotational = (basic.attrs & abi::attr_rotational) != 0;

    // Bytes in 32 bits, as the types have them. A chunk past that is left out, not misstated.
    constexpr std::uint32_t sectors_32 = std::numeric_limits<std::uint32_t>::max() >> sector_shift;
    geometry.chunk = basic.chunk_sectors > sectors_32 ? 0 : basic.chunk_sectors << sector_shift;
    out.io_max_bytes = std::min(basic.max_sectors, sectors_32) << sector_shift;

    out.capabilities.read_only = (basic.attrs & abi::attr_read_only) != 0;
    out.capabilities.flush = (basic.attrs & abi::attr_volatile_cache) != 0;
    out.capabilities.fua = out.capabilities.flush && (basic.attrs & abi::attr_fua) != 0;
    return 0;
}

void decode_discard(const abi::ParamDiscard& discard, DecodedParams& out) noexcept {
    out.geometry.discard_granularity = discard.discard_granularity;
    out.geometry.discard_max = std::uint64_t{discard.max_discard_sectors} << sector_shift;
    out.geometry.write_zeroes_max = std::uint64_t{discard.max_write_zeroes_sectors} << sector_shift;
    out.capabilities.discard = discard.max_discard_sectors != 0;
    out.capabilities.write_zeroes = discard.max_write_zeroes_sectors != 0;
}

std::unexpected<std::string> refuse(std::string_view what, std::uint64_t value,
                                    std::string_view allowed) {
    std::string reason{what};
    reason += " is ";
    reason += std::to_string(value);
    reason += "; ";
    reason += allowed;
    return std::unexpected{std::move(reason)};
}

std::expected<void, std::string> validate_zones(const Geometry& geometry) {
    const Zones& zones = geometry.zones;
    if (zones.size == 0) return {};
    const std::uint64_t least = std::max<std::uint64_t>(4096, geometry.logical_block_size);
    if (!std::has_single_bit(zones.size) || zones.size < least || zones.size > zone_size_max) {
        return refuse("zone size", zones.size,
                      "it must be a power of two from 4096 to 2^40, at least a logical block");
    }
    if (geometry.size % zones.size != 0) {
        return refuse("size", geometry.size,
                      "it must be a multiple of the zone size " + std::to_string(zones.size));
    }
    const std::uint64_t count = geometry.size / zones.size;
    if (count > std::numeric_limits<std::uint32_t>::max()) {
        return refuse("number of zones", count, "it must be less than 2^32");
    }
    const std::string allowed =
        "it must be 0 or at most the number of zones, " + std::to_string(count);
    if (zones.open_max > count) return refuse("zones open at once", zones.open_max, allowed);
    if (zones.active_max > count) return refuse("active zones", zones.active_max, allowed);
    if (zones.active_max != 0 && zones.open_max > zones.active_max) {
        return refuse(
            "zones open at once", zones.open_max,
            "it must be at most the number of active ones, " + std::to_string(zones.active_max));
    }
    return {};
}

std::expected<void, std::string> validate_metadata(const Geometry& geometry) {
    const Metadata& metadata = geometry.metadata;
    if (metadata.size == 0) return {};
    if (!std::has_single_bit(metadata.interval) || metadata.interval < 512 ||
        metadata.interval > geometry.logical_block_size) {
        return refuse("metadata interval", metadata.interval,
                      "it must be a power of two from 512 to the logical block size " +
                          std::to_string(geometry.logical_block_size));
    }
    const std::uint8_t least = rule_of(metadata.checksum).bytes;
    if (metadata.size < least) {
        return refuse("metadata size", metadata.size,
                      "the checksum needs " + std::to_string(least) + " bytes");
    }
    if (metadata.reference_tag && metadata.checksum == Checksum::none) {
        return std::unexpected("a reference tag needs a checksum");
    }
    return {};
}

}  // namespace

abi::IoDesc encode_request(const Request& request, std::uint32_t flags,
                           std::uint64_t addr) noexcept {
    abi::IoDesc desc{};
    for (std::uint32_t op = 0; op < detail::op_rule_count; ++op) {
        const detail::OpRule& rule = detail::op_rules.rule[op];
        if (!rule.known || rule.op != request.op) continue;
        desc.op_flags = op | (flags & ~std::uint32_t{0xff});
        desc.start_sector = request.offset >> sector_shift & rule.mask;
        desc.nr_sectors =
            static_cast<std::uint32_t>(request.length >> rule.length_shift & rule.mask);
    }
    if (request.fua) desc.op_flags |= abi::io_f_fua;
    if (request.no_unmap) desc.op_flags |= abi::io_f_nounmap;
    desc.addr = addr;
    return desc;
}

std::optional<BatchElement> decode_batch_element(std::uint16_t flags,
                                                 std::span<const std::byte> in) noexcept {
    if (in.size() < batch_element_bytes(flags)) return std::nullopt;
    abi::ElemHeader header;
    std::memcpy(&header, in.data(), sizeof header);
    BatchElement element{.tag = header.tag, .buf_index = header.buf_index, .result = header.result};
    std::size_t at = sizeof header;
    if ((flags & abi::batch_f_has_buf_addr) != 0) {
        std::memcpy(&element.buf_addr, in.data() + at, sizeof element.buf_addr);
        at += sizeof element.buf_addr;
    }
    if ((flags & abi::batch_f_has_zone_lba) != 0) {
        std::memcpy(&element.zone_lba, in.data() + at, sizeof element.zone_lba);
    }
    return element;
}

abi::CtrlCmd make_control_command(const ControlArguments& arguments) noexcept {
    return {.dev_id = arguments.dev_id,
            .queue_id = arguments.queue_id,
            .len = arguments.length,
            .addr = reinterpret_cast<std::uintptr_t>(arguments.buffer),
            .data = {arguments.data},
            .dev_path_len = arguments.dev_path_len,
            .pad = 0,
            .reserved = 0};
}

std::vector<std::byte> prepend_device_path(std::string_view path,
                                           std::span<const std::byte> payload) {
    std::vector<std::byte> buffer(path.size() + 1 + payload.size());
    if (!path.empty()) std::memcpy(buffer.data(), path.data(), path.size());
    if (!payload.empty()) {
        std::memcpy(buffer.data() + path.size() + 1, payload.data(), payload.size());
    }
    return buffer;
}

void encode_zone_report(std::span<std::byte> report, std::size_t zones) noexcept {
    static_assert(sizeof(Zone) == sizeof(abi::Zone));
    const std::size_t bytes = zones * sizeof(abi::Zone);
    for (std::size_t at = 0; at < bytes; at += sizeof(abi::Zone)) {
        Zone zone;
        std::memcpy(&zone, report.data() + at, sizeof zone);
        abi::Zone out{};
        out.start = zone.start >> sector_shift;
        out.len = zone.length >> sector_shift;
        out.wp = zone.write_pointer >> sector_shift;
        out.type = zone.type == ZoneType::conventional ? abi::zone_type_conventional
                                                       : abi::zone_type_seqwrite_req;
        out.cond = static_cast<std::uint8_t>(zone.condition);
        out.capacity = zone.capacity >> sector_shift;
        std::memcpy(report.data() + at, &out, sizeof out);
    }
    if (bytes < report.size()) std::memset(report.data() + bytes, 0, report.size() - bytes);
}

abi::DevInfo encode_dev_info(const DevSettings& settings) noexcept {
    abi::DevInfo info{};
    info.nr_hw_queues = settings.queues;
    info.queue_depth = settings.depth;
    info.state = static_cast<std::uint16_t>(settings.state);
    // The field was padding before f_io_desc_size, so it stays 0 without it.
    if ((settings.features & abi::f_io_desc_size) != 0) info.io_desc_size = settings.desc_size;
    info.max_io_buf_bytes = settings.io_max_bytes;
    info.dev_id = settings.dev_id;
    info.ublksrv_pid = settings.server_pid;
    info.flags = settings.features;
    info.ublksrv_flags = settings.server_flags;
    info.owner_uid = settings.owner_uid;
    info.owner_gid = settings.owner_gid;
    return info;
}

DevSettings decode_dev_info(const abi::DevInfo& info) noexcept {
    DevSettings settings;
    settings.dev_id = info.dev_id;
    settings.queues = info.nr_hw_queues;
    settings.depth = info.queue_depth;
    settings.io_max_bytes = info.max_io_buf_bytes;
    settings.features = info.flags;
    settings.server_flags = info.ublksrv_flags;
    settings.desc_size = (info.flags & abi::f_io_desc_size) != 0 && info.io_desc_size != 0
                             ? info.io_desc_size
                             : static_cast<std::uint16_t>(sizeof(abi::IoDesc));
    settings.state = static_cast<abi::DevState>(info.state);
    settings.server_pid = info.ublksrv_pid;
    settings.owner_uid = info.owner_uid;
    settings.owner_gid = info.owner_gid;
    return settings;
}

std::string_view state_name(abi::DevState state) noexcept {
    switch (state) {
        case abi::DevState::dead: return "dead";
        case abi::DevState::live: return "live";
        case abi::DevState::quiesced: return "quiesced";
        case abi::DevState::fail_io: return "fail_io";
    }
    return "unknown";
}

std::expected<void, std::string> validate_geometry(const Geometry& geometry) {
    const std::uint32_t block = geometry.logical_block_size;
    if (!std::has_single_bit(block) || block < 512 || block > block_size_max) {
        return refuse("logical block size", block, "allowed are 512, 1024, 2048 and 4096");
    }
    if (geometry.size == 0) return refuse("size", 0, "it must be at least one logical block");
    if (geometry.size % block != 0) {
        return refuse("size", geometry.size,
                      "it must be a multiple of the logical block size " + std::to_string(block));
    }
    if (geometry.size >> sector_shift > sectors_max) {
        return refuse("size", geometry.size, "it must be less than 2^63");
    }
    if (!std::has_single_bit(geometry.physical_block_size) ||
        geometry.physical_block_size < block || geometry.physical_block_size > preferred_size_max) {
        return refuse("physical block size", geometry.physical_block_size,
                      "it must be a power of two from the logical block size " +
                          std::to_string(block) + " to 268435456");
    }
    const std::string preferred_allowed =
        "it must be 0 or a power of two from the physical block "
        "size " +
        std::to_string(geometry.physical_block_size) + " to 268435456";
    const auto preferred_valid = [&](std::uint32_t bytes) {
        return bytes == 0 || (std::has_single_bit(bytes) && bytes >= geometry.physical_block_size &&
                              bytes <= preferred_size_max);
    };
    if (!preferred_valid(geometry.io_min)) {
        return refuse("io_min", geometry.io_min, preferred_allowed);
    }
    if (!preferred_valid(geometry.io_opt)) {
        return refuse("io_opt", geometry.io_opt, preferred_allowed);
    }
    const std::string multiple_allowed =
        "it must be 0 or a multiple of the logical block size " + std::to_string(block);
    if (geometry.chunk % block != 0) return refuse("chunk", geometry.chunk, multiple_allowed);
    if (geometry.discard_granularity % block != 0) {
        return refuse("discard granularity", geometry.discard_granularity, multiple_allowed);
    }
    if (geometry.discard_max % block != 0) {
        return refuse("discard_max", geometry.discard_max, multiple_allowed);
    }
    if (geometry.write_zeroes_max % block != 0) {
        return refuse("write_zeroes_max", geometry.write_zeroes_max, multiple_allowed);
    }
    const auto zero_or_power = [](std::uint64_t bytes, std::uint64_t least, std::uint64_t most) {
        return bytes == 0 || (std::has_single_bit(bytes) && bytes >= least && bytes <= most);
    };
    if (!zero_or_power(geometry.dma_alignment, 1, segment_size_min)) {
        return refuse("DMA alignment", geometry.dma_alignment,
                      "it must be 0 or a power of two up to 4096");
    }
    if (geometry.segment_max != 0 && geometry.segment_max < segment_size_min) {
        return refuse("largest segment", geometry.segment_max, "it must be 0 or at least 4096");
    }
    constexpr std::uint64_t boundary_most = std::uint64_t{1} << 63;
    if (!zero_or_power(geometry.segment_boundary, segment_size_min, boundary_most)) {
        return refuse("segment boundary", geometry.segment_boundary,
                      "it must be 0 or a power of two of at least 4096");
    }
    if (auto valid = validate_zones(geometry); !valid) return valid;
    return validate_metadata(geometry);
}

abi::Params encode_params(const Geometry& geometry, const Capabilities& capabilities,
                          const ParamsOptions& options) noexcept {
    abi::Params params{};
    params.len = sizeof(abi::Params);
    params.types = abi::param_type_basic;
    params.basic = encode_basic(geometry, capabilities, options);
    if (!capabilities.read_only && (capabilities.discard || capabilities.write_zeroes)) {
        params.types |= abi::param_type_discard;
        params.discard = encode_discard(geometry, capabilities);
    }
    if (geometry.zones.size != 0) {
        params.types |= abi::param_type_zoned;
        params.zoned.max_open_zones = geometry.zones.open_max;
        params.zoned.max_active_zones = geometry.zones.active_max;
        params.zoned.max_zone_append_sectors = params.basic.max_sectors;
    }
    if (options.dma_alignment != 0) {
        params.types |= abi::param_type_dma_align;
        params.dma.alignment = options.dma_alignment - 1;
    }
    if (options.segment) {
        params.types |= abi::param_type_segment;
        params.seg = *options.segment;
    }
    if (geometry.metadata.size != 0) {
        params.types |= abi::param_type_integrity;
        const Metadata& metadata = geometry.metadata;
        params.integrity.flags = abi::pi_cap_integrity;
        if (metadata.reference_tag) params.integrity.flags |= abi::pi_cap_reftag;
        params.integrity.interval_exp = shift_of(metadata.interval);
        params.integrity.metadata_size = metadata.size;
        params.integrity.csum_type = rule_of(metadata.checksum).type;
    }
    return params;
}

std::expected<DecodedParams, int> decode_params(std::span<const std::byte> bytes) {
    if (bytes.size() < offsetof(abi::Params, basic)) return std::unexpected{EINVAL};
    abi::Params params{};
    std::memcpy(&params, bytes.data(), std::min(bytes.size(), sizeof params));

    // params.len is what the server said when it set them, not how much is here: even a device
    // without parameters has its numbers filled in.
    const auto given = [&](std::uint32_t type, std::size_t end) {
        return (params.types & type) != 0 && end <= bytes.size();
    };
    DecodedParams out;
    if (given(abi::param_type_basic, offsetof(abi::Params, discard))) {
        if (const int error = decode_basic(params.basic, out); error != 0) {
            return std::unexpected{error};
        }
    }
    if (given(abi::param_type_discard, offsetof(abi::Params, devt))) {
        decode_discard(params.discard, out);
    }
    if (given(abi::param_type_devt, offsetof(abi::Params, zoned))) {
        out.numbers = DeviceNumbers{params.devt.char_major, params.devt.char_minor,
                                    params.devt.disk_major, params.devt.disk_minor};
    }
    if (given(abi::param_type_zoned, offsetof(abi::Params, dma))) {
        out.geometry.zones = {.size = std::uint64_t{params.basic.chunk_sectors} << sector_shift,
                              .open_max = params.zoned.max_open_zones,
                              .active_max = params.zoned.max_active_zones};
        out.geometry.chunk = 0;
    }
    if (given(abi::param_type_dma_align, offsetof(abi::Params, dma) + sizeof(abi::ParamDmaAlign))) {
        if (!std::has_single_bit(std::uint64_t{params.dma.alignment} + 1) ||
            params.dma.alignment == std::numeric_limits<std::uint32_t>::max()) {
            return std::unexpected{EINVAL};
        }
        out.dma_alignment = params.dma.alignment + 1;
    }
    if (given(abi::param_type_segment, offsetof(abi::Params, integrity))) {
        out.segment = params.seg;
    }
    if (given(abi::param_type_integrity, sizeof(abi::Params))) {
        const auto checksum = checksum_of(params.integrity.csum_type);
        if (!checksum || params.integrity.interval_exp > block_shift_max) {
            return std::unexpected{EINVAL};
        }
        out.geometry.metadata = {
            .size = params.integrity.metadata_size,
            .interval = std::uint32_t{1} << params.integrity.interval_exp,
            .checksum = *checksum,
            .reference_tag = (params.integrity.flags & abi::pi_cap_reftag) != 0};
    }
    return out;
}

}  // namespace ashlar::kernel
