// decode_params on arbitrary bytes, and what a decoded disk encodes to: always something the
// driver accepts, and the same again after another round.
#include <algorithm>
#include <bit>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernel/codec.h"

namespace {

using namespace ashlar;
namespace abi = kernel::abi;

constexpr std::uint32_t page = 4096;

void require(bool condition) {
    if (!condition) std::abort();
}

// What the driver demands of parameters, written from its source (7.3) and from nothing of ours.
bool driver_accepts(const abi::Params& params, std::uint32_t max_io_buf_bytes) {
    if ((params.types & 1) == 0) return false;  // basic
    const abi::ParamBasic& basic = params.basic;
    if (basic.logical_bs_shift < 9 || basic.logical_bs_shift > 12) return false;
    if (basic.physical_bs_shift > 28 || basic.io_min_shift > 28 || basic.io_opt_shift > 28) {
        return false;
    }
    if (basic.physical_bs_shift < basic.logical_bs_shift) return false;
    if (basic.max_sectors > max_io_buf_bytes / 512 || basic.max_sectors < page / 512) return false;

    if ((params.types & 2) != 0) {  // discard
        const abi::ParamDiscard& discard = params.discard;
        if (discard.max_discard_sectors != 0 && discard.max_discard_segments != 1) return false;
        if (discard.discard_granularity == 0) return false;
    }
    if ((params.types & 4) != 0) return false;  // devt is the kernel's to say
    if ((params.types & 8) != 0) {              // zoned; nothing after it is looked at
        const std::uint64_t zone = basic.chunk_sectors;
        if (zone == 0 || !std::has_single_bit(zone) || basic.dev_sectors % zone != 0) return false;
        const std::uint64_t zones = basic.dev_sectors / zone;
        return params.zoned.max_open_zones <= zones && params.zoned.max_active_zones <= zones &&
               params.zoned.max_zone_append_sectors != 0;
    }
    if ((params.types & 16) != 0) {  // dma alignment
        const std::uint64_t alignment = std::uint64_t{params.dma.alignment} + 1;
        if (alignment > page || !std::has_single_bit(alignment)) return false;
    }
    if ((params.types & 32) != 0) {  // segment
        const abi::ParamSegment& segment = params.seg;
        const std::uint64_t boundary = segment.seg_boundary_mask + 1;
        if (!std::has_single_bit(boundary) || boundary < 4096) return false;
        if (segment.max_segment_size < 4096) return false;
    }
    if ((params.types & 64) != 0) {  // integrity
        const abi::ParamIntegrity& integrity = params.integrity;
        const unsigned tuple = integrity.csum_type == 0 ? 0 : integrity.csum_type == 4 ? 16 : 8;
        if (integrity.csum_type > 4 || integrity.csum_type == 3 || integrity.metadata_size == 0 ||
            integrity.pi_offset + tuple > integrity.metadata_size) {
            return false;
        }
        if (integrity.csum_type == 0 && (integrity.flags & 2) != 0) return false;
        if (integrity.interval_exp < 9 || integrity.interval_exp > basic.logical_bs_shift) {
            return false;
        }
    }
    return true;
}

bool same(const abi::Params& left, const abi::Params& right) {
    return std::memcmp(&left, &right, sizeof left) == 0;
}

// Encodes what was decoded, leaving out what the driver would refuse whoever encodes it.
abi::Params encode_again(const kernel::DecodedParams& decoded, std::uint32_t io_max_bytes) {
    kernel::ParamsOptions options{.io_max_bytes = io_max_bytes, .fua = decoded.capabilities.fua};
    if (decoded.dma_alignment <= page) options.dma_alignment = decoded.dma_alignment;
    if (decoded.segment && decoded.segment->max_segment_size >= 4096 &&
        decoded.segment->seg_boundary_mask >= 4095 &&
        std::has_single_bit(decoded.segment->seg_boundary_mask + 1)) {
        options.segment = decoded.segment;
    }
    return kernel::encode_params(decoded.geometry, decoded.capabilities, options);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto decoded = kernel::decode_params(std::as_bytes(std::span(data, size)));
    if (!decoded) {
        require(decoded.error() == EINVAL || decoded.error() == EOVERFLOW);
        return 0;
    }
    const auto valid = kernel::validate_geometry(decoded->geometry);
    if (!valid) {
        require(!valid.error().empty() && valid.error().find('\n') == std::string::npos);
        return 0;
    }

    const std::uint32_t io_max_bytes =
        decoded->io_max_bytes < page ? page : decoded->io_max_bytes & ~(page - 1);
    const abi::Params first = encode_again(*decoded, io_max_bytes);
    require(driver_accepts(first, io_max_bytes));

    const auto second = kernel::decode_params(std::as_bytes(std::span(&first, 1)));
    require(second.has_value());
    require(kernel::validate_geometry(second->geometry).has_value());
    require(second->geometry.size == decoded->geometry.size);
    // A request stays within a zone.
    const std::uint64_t zone = decoded->geometry.zones.size;
    require(second->io_max_bytes ==
            (zone == 0 ? io_max_bytes : std::min<std::uint64_t>(io_max_bytes, zone)));
    require(same(encode_again(*second, io_max_bytes), first));
    return 0;
}
