// The codec's geometry and parameters.
#include <array>
#include <limits>

#include <gtest/gtest.h>

#include "kernel/codec.h"

namespace ashlar::kernel {
namespace {

constexpr Geometry disk{.size = 1 << 30};
constexpr ParamsOptions options{.io_max_bytes = 512 * 1024};

std::span<const std::byte> bytes_of(const abi::Params& params) {
    return std::as_bytes(std::span(&params, 1));
}

// The reason for refusing `geometry`; empty if it is accepted.
std::string reason(const Geometry& geometry) {
    const auto valid = validate_geometry(geometry);
    return valid ? std::string{} : valid.error();
}

TEST(ValidateGeometry, Accepts) {
    EXPECT_EQ(reason(disk), "");
    EXPECT_EQ(reason({.size = 512}), "");
    EXPECT_EQ(reason({.size = 4096, .logical_block_size = 4096}), "");
    EXPECT_EQ(reason({.size = (std::uint64_t{1} << 63) - 512}), "");
    EXPECT_EQ(reason({.size = 1 << 20, .physical_block_size = 256 << 20}), "");
    EXPECT_EQ(reason({.size = 1 << 20,
                      .io_min = 65536,
                      .io_opt = 1 << 20,
                      .chunk = 3 * 65536,
                      .discard_granularity = 65536,
                      .discard_max = 1 << 20}),
              "");
}

TEST(ValidateGeometry, NamesTheValueAndWhatIsAllowed) {
    EXPECT_EQ(reason({.size = 0}), "size is 0; it must be at least one logical block");
    EXPECT_EQ(reason({.size = 1000}),
              "size is 1000; it must be a multiple of the logical block size 512");
    EXPECT_EQ(reason({.size = 4096, .logical_block_size = 520}),
              "logical block size is 520; allowed are 512, 1024, 2048 and 4096");
    EXPECT_EQ(reason({.size = 4096, .logical_block_size = 4096, .physical_block_size = 512}),
              "physical block size is 512; it must be a power of two from the logical block size "
              "4096 to 268435456");
    EXPECT_EQ(reason({.size = 4096, .io_opt = 12288}),
              "io_opt is 12288; it must be 0 or a power of two from the physical block size 4096 "
              "to 268435456");
    EXPECT_EQ(reason({.size = 4096, .chunk = 1000}),
              "chunk is 1000; it must be 0 or a multiple of the logical block size 512");
}

TEST(ValidateGeometry, Refuses) {
    for (const std::uint32_t block : {0U, 1U, 256U, 8192U, 1U << 31}) {
        EXPECT_NE(reason({.size = 1 << 20, .logical_block_size = block}), "") << block;
    }
    for (const std::uint32_t block : {0U, 256U, 4097U, 512U << 20, 1U << 31}) {
        EXPECT_NE(reason({.size = 1 << 20, .physical_block_size = block}), "") << block;
    }
    EXPECT_NE(reason({.size = std::uint64_t{1} << 63}), "");
    EXPECT_NE(reason({.size = 1 << 20, .io_min = 512}), "");
    EXPECT_NE(reason({.size = 1 << 20, .io_opt = 512}), "");
    EXPECT_NE(reason({.size = 1 << 20, .discard_granularity = 100}), "");
    EXPECT_NE(reason({.size = 1 << 20, .discard_max = 100}), "");
    EXPECT_NE(reason({.size = 1 << 20, .write_zeroes_max = 100}), "");
}

TEST(EncodeParams, Basic) {
    const abi::Params params = encode_params(disk, {}, options);
    EXPECT_EQ(params.len, sizeof(abi::Params));
    EXPECT_EQ(params.types, abi::param_type_basic);
    EXPECT_EQ(params.basic.attrs, 0U);
    EXPECT_EQ(params.basic.logical_bs_shift, 9);
    EXPECT_EQ(params.basic.physical_bs_shift, 12);
    EXPECT_EQ(params.basic.io_min_shift, 12);
    EXPECT_EQ(params.basic.io_opt_shift, 0);
    EXPECT_EQ(params.basic.max_sectors, 1024U);
    EXPECT_EQ(params.basic.chunk_sectors, 0U);
    EXPECT_EQ(params.basic.dev_sectors, 2U << 20);
}

TEST(EncodeParams, SectorsDoNotFollowTheLogicalBlock) {
    Geometry geometry = disk;
    geometry.logical_block_size = 4096;
    geometry.chunk = 1 << 20;
    const abi::Params params = encode_params(geometry, {}, options);
    EXPECT_EQ(params.basic.logical_bs_shift, 12);
    EXPECT_EQ(params.basic.dev_sectors, 2U << 20);
    EXPECT_EQ(params.basic.chunk_sectors, 2048U);
}

TEST(EncodeParams, Attributes) {
    Geometry geometry = disk;
    geometry.rotational = true;
    const auto attrs = [&](Capabilities capabilities, bool fua) {
        return encode_params(geometry, capabilities, {.io_max_bytes = 65536, .fua = fua})
            .basic.attrs;
    };
    EXPECT_EQ(attrs({}, true), abi::attr_rotational);
    EXPECT_EQ(attrs({.fua = true}, true), abi::attr_rotational);  // no cache, nothing to force
    EXPECT_EQ(attrs({.flush = true}, true),
              abi::attr_rotational | abi::attr_volatile_cache | abi::attr_fua);
    EXPECT_EQ(attrs({.flush = true}, false), abi::attr_rotational | abi::attr_volatile_cache);
    EXPECT_EQ(attrs({.read_only = true}, true), abi::attr_rotational | abi::attr_read_only);
}

TEST(EncodeParams, DiscardDefaults) {
    const abi::Params params = encode_params(disk, {.discard = true}, options);
    EXPECT_EQ(params.types, abi::param_type_basic | abi::param_type_discard);
    EXPECT_EQ(params.discard.discard_granularity, 4096U);
    EXPECT_EQ(params.discard.max_discard_sectors, 2U << 20);
    EXPECT_EQ(params.discard.max_write_zeroes_sectors, 0U);
    EXPECT_EQ(params.discard.max_discard_segments, 1);
    EXPECT_EQ(params.discard.discard_alignment, 0U);
}

TEST(EncodeParams, WriteZeroesAlone) {
    const abi::Params params = encode_params(disk, {.write_zeroes = true}, options);
    EXPECT_EQ(params.types, abi::param_type_basic | abi::param_type_discard);
    EXPECT_EQ(params.discard.discard_granularity, 4096U);  // the driver refuses 0
    EXPECT_EQ(params.discard.max_discard_sectors, 0U);
    EXPECT_EQ(params.discard.max_write_zeroes_sectors, 2U << 20);
}

TEST(EncodeParams, DiscardLimitsAreClippedTo32BitsOfWholeBlocks) {
    Geometry geometry = disk;
    geometry.logical_block_size = 4096;
    geometry.discard_max = std::uint64_t{1} << 50;
    const abi::Params params = encode_params(geometry, {.discard = true}, options);
    EXPECT_EQ(params.discard.max_discard_sectors, 0xffff'fff8U);
}

TEST(EncodeParams, AReadOnlyDiskOffersNoDiscard) {
    const abi::Params params =
        encode_params(disk, {.discard = true, .write_zeroes = true, .read_only = true}, options);
    EXPECT_EQ(params.types, abi::param_type_basic);
}

TEST(EncodeParams, OptionalBlocks) {
    ParamsOptions all = options;
    all.dma_alignment = 512;
    all.segment = abi::ParamSegment{
        .seg_boundary_mask = 4095, .max_segment_size = 4096, .max_segments = 32, .pad = {}};
    Geometry geometry = disk;
    geometry.zones = {.size = disk.size / 4, .open_max = 2, .active_max = 3};
    geometry.metadata = {
        .size = 8, .interval = 512, .checksum = Checksum::crc16_t10dif, .reference_tag = true};
    const abi::Params params = encode_params(geometry, {}, all);
    EXPECT_EQ(params.types, abi::param_type_basic | abi::param_type_zoned |
                                abi::param_type_dma_align | abi::param_type_segment |
                                abi::param_type_integrity);
    EXPECT_EQ(params.dma.alignment, 511U);  // a mask
    EXPECT_EQ(params.seg.max_segments, 32);
    EXPECT_EQ(params.basic.chunk_sectors, geometry.zones.size / 512);
    EXPECT_EQ(params.zoned.max_open_zones, 2U);
    EXPECT_EQ(params.zoned.max_active_zones, 3U);
    EXPECT_EQ(params.zoned.max_zone_append_sectors, params.basic.max_sectors);
    EXPECT_EQ(params.integrity.flags, abi::pi_cap_integrity | abi::pi_cap_reftag);
    EXPECT_EQ(params.integrity.interval_exp, 9);
    EXPECT_EQ(params.integrity.metadata_size, 8);
    EXPECT_EQ(params.integrity.csum_type, abi::pi_csum_crc16_t10dif);

    const auto decoded = decode_params(bytes_of(params));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->geometry.zones.size, geometry.zones.size);
    EXPECT_EQ(decoded->geometry.zones.open_max, 2U);
    EXPECT_EQ(decoded->geometry.zones.active_max, 3U);
    EXPECT_EQ(decoded->geometry.chunk, 0U);
    EXPECT_EQ(decoded->geometry.metadata, geometry.metadata);
}

TEST(EncodeParams, NoRequestIsLargerThanAZone) {
    Geometry geometry = disk;
    geometry.zones.size = 4096;
    EXPECT_EQ(encode_params(geometry, {}, options).basic.max_sectors, 8U);
}

TEST(ValidateGeometry, Zones) {
    Geometry geometry = disk;
    geometry.zones.size = disk.size / 4;
    EXPECT_TRUE(validate_geometry(geometry));
    for (const std::uint64_t size :
         {std::uint64_t{3}, std::uint64_t{2048}, disk.size * 2, std::uint64_t{1} << 41}) {
        geometry.zones.size = size;
        EXPECT_FALSE(validate_geometry(geometry)) << size;
    }
    geometry.zones = {.size = disk.size / 4, .open_max = 5};
    EXPECT_EQ(validate_geometry(geometry).error(),
              "zones open at once is 5; it must be 0 or at most the number of zones, 4");
    geometry.zones = {.size = disk.size / 4, .active_max = 5};
    EXPECT_FALSE(validate_geometry(geometry));
    geometry.zones = {.size = disk.size / 4, .open_max = 3, .active_max = 2};
    EXPECT_FALSE(validate_geometry(geometry));
}

TEST(ValidateGeometry, Metadata) {
    Geometry geometry = disk;
    geometry.metadata = {.size = 8, .interval = 512, .checksum = Checksum::crc16_t10dif};
    EXPECT_TRUE(validate_geometry(geometry));
    geometry.metadata.checksum = Checksum::crc64_nvme;
    EXPECT_EQ(validate_geometry(geometry).error(),
              "metadata size is 8; the checksum needs 16 bytes");
    geometry.metadata = {.size = 8, .interval = 8192};
    EXPECT_FALSE(validate_geometry(geometry));
    geometry.metadata = {.size = 8, .interval = 512, .reference_tag = true};
    EXPECT_FALSE(validate_geometry(geometry));
}

TEST(EncodeZoneReport, CountsInSectorsAndEndsWithZeroes) {
    std::vector<Zone> zones(3);
    zones[0] = {.start = 0,
                .length = 1 << 20,
                .write_pointer = 4096,
                .capacity = 1 << 19,
                .condition = ZoneCondition::closed};
    zones[1] = {.start = 1 << 20,
                .length = 1 << 20,
                .type = ZoneType::conventional,
                .condition = ZoneCondition::not_write_pointer};
    zones[2].length = 1;
    encode_zone_report(std::as_writable_bytes(std::span(zones)), 2);
    std::array<abi::Zone, 3> out;
    std::memcpy(out.data(), zones.data(), sizeof out);
    EXPECT_EQ(out[0].len, 2048U);
    EXPECT_EQ(out[0].wp, 8U);
    EXPECT_EQ(out[0].capacity, 1024U);
    EXPECT_EQ(out[0].type, abi::zone_type_seqwrite_req);
    EXPECT_EQ(out[0].cond, abi::zone_cond_closed);
    EXPECT_EQ(out[1].start, 2048U);
    EXPECT_EQ(out[1].type, abi::zone_type_conventional);
    EXPECT_EQ(out[2].len, 0U);
}

TEST(DecodeParams, IsTheInverse) {
    const Geometry geometry{.size = 3 << 20,
                            .logical_block_size = 1024,
                            .physical_block_size = 8192,
                            .io_min = 16384,
                            .io_opt = 1 << 20,
                            .chunk = 1 << 20,
                            .discard_granularity = 8192,
                            .discard_max = 1 << 22,
                            .write_zeroes_max = 1 << 23,
                            .rotational = true};
    const Capabilities capabilities{
        .flush = true, .fua = true, .discard = true, .write_zeroes = true};
    const auto decoded = decode_params(bytes_of(
        encode_params(geometry, capabilities, {.io_max_bytes = 1 << 20, .dma_alignment = 512})));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->geometry.size, geometry.size);
    EXPECT_EQ(decoded->geometry.logical_block_size, geometry.logical_block_size);
    EXPECT_EQ(decoded->geometry.physical_block_size, geometry.physical_block_size);
    EXPECT_EQ(decoded->geometry.io_min, geometry.io_min);
    EXPECT_EQ(decoded->geometry.io_opt, geometry.io_opt);
    EXPECT_EQ(decoded->geometry.chunk, geometry.chunk);
    EXPECT_EQ(decoded->geometry.discard_granularity, geometry.discard_granularity);
    EXPECT_EQ(decoded->geometry.discard_max, geometry.discard_max);
    EXPECT_EQ(decoded->geometry.write_zeroes_max, geometry.write_zeroes_max);
    EXPECT_TRUE(decoded->geometry.rotational);
    EXPECT_TRUE(decoded->capabilities.flush);
    EXPECT_TRUE(decoded->capabilities.fua);
    EXPECT_TRUE(decoded->capabilities.discard);
    EXPECT_TRUE(decoded->capabilities.write_zeroes);
    EXPECT_FALSE(decoded->capabilities.read_only);
    EXPECT_EQ(decoded->io_max_bytes, 1U << 20);
    EXPECT_EQ(decoded->dma_alignment, 512U);
    EXPECT_FALSE(decoded->numbers);
    EXPECT_FALSE(decoded->segment);
}

TEST(DecodeParams, ADeviceWithoutParametersHasItsNumbers) {
    abi::Params params{};  // as the kernel answers it: len 0, only the numbers filled in
    params.types = abi::param_type_devt;
    params.devt = {.char_major = 240, .char_minor = 3, .disk_major = 0, .disk_minor = 0};
    const auto decoded = decode_params(bytes_of(params));
    ASSERT_TRUE(decoded);
    EXPECT_EQ(decoded->geometry.size, 0U);
    EXPECT_EQ(decoded->numbers, (DeviceNumbers{.char_major = 240, .char_minor = 3}));
}

TEST(DecodeParams, BlocksNotWhollyInsideAreNotGiven) {
    const abi::Params params = encode_params(disk, {.discard = true}, options);
    const auto all = bytes_of(params);
    const auto with_basic = decode_params(all.first(offsetof(abi::Params, discard)));
    ASSERT_TRUE(with_basic);
    EXPECT_EQ(with_basic->geometry.size, disk.size);
    EXPECT_FALSE(with_basic->capabilities.discard);
    const auto with_none = decode_params(all.first(offsetof(abi::Params, discard) - 1));
    ASSERT_TRUE(with_none);
    EXPECT_EQ(with_none->geometry.size, 0U);
    EXPECT_EQ(decode_params(all.first(7)).error(), EINVAL);
}

TEST(DecodeParams, RefusesNonsense) {
    const abi::Params good = encode_params(disk, {}, options);
    for (std::uint8_t abi::ParamBasic::* shift :
         {&abi::ParamBasic::logical_bs_shift, &abi::ParamBasic::physical_bs_shift,
          &abi::ParamBasic::io_min_shift, &abi::ParamBasic::io_opt_shift}) {
        abi::Params params = good;
        params.basic.*shift = 64;
        EXPECT_EQ(decode_params(bytes_of(params)).error(), EINVAL);
    }
    abi::Params params = good;
    params.basic.logical_bs_shift = 8;
    EXPECT_EQ(decode_params(bytes_of(params)).error(), EINVAL);
    params = good;
    params.basic.dev_sectors = std::numeric_limits<std::uint64_t>::max();
    EXPECT_EQ(decode_params(bytes_of(params)).error(), EOVERFLOW);
    params = good;
    params.types |= abi::param_type_dma_align;
    params.dma.alignment = 5;
    EXPECT_EQ(decode_params(bytes_of(params)).error(), EINVAL);
}

}  // namespace
}  // namespace ashlar::kernel
