// abi.h against literal numbers, so that a machine without any kernel header still notices a slip.
// abi_header_test compares all of it with a kernel's own header.
#include "kernel/abi.h"

#include <bit>
#include <set>

#include <gtest/gtest.h>

namespace ashlar::kernel {
namespace {

TEST(Abi, ControlOpcodes) {
    EXPECT_EQ(abi::u_cmd_get_queue_affinity, 0x80207501U);
    EXPECT_EQ(abi::u_cmd_get_dev_info, 0x80207502U);
    EXPECT_EQ(abi::u_cmd_add_dev, 0xc0207504U);
    EXPECT_EQ(abi::u_cmd_del_dev, 0xc0207505U);
    EXPECT_EQ(abi::u_cmd_start_dev, 0xc0207506U);
    EXPECT_EQ(abi::u_cmd_stop_dev, 0xc0207507U);
    EXPECT_EQ(abi::u_cmd_set_params, 0xc0207508U);
    EXPECT_EQ(abi::u_cmd_get_params, 0x80207509U);
    EXPECT_EQ(abi::u_cmd_start_user_recovery, 0xc0207510U);
    EXPECT_EQ(abi::u_cmd_end_user_recovery, 0xc0207511U);
    EXPECT_EQ(abi::u_cmd_get_dev_info2, 0x80207512U);
    EXPECT_EQ(abi::u_cmd_get_features, 0x80207513U);
    EXPECT_EQ(abi::u_cmd_del_dev_async, 0x80207514U);
    EXPECT_EQ(abi::u_cmd_update_size, 0xc0207515U);
    EXPECT_EQ(abi::u_cmd_quiesce_dev, 0xc0207516U);
    EXPECT_EQ(abi::u_cmd_try_stop_dev, 0xc0207517U);
    EXPECT_EQ(abi::u_cmd_reg_buf, 0xc0207518U);
    EXPECT_EQ(abi::u_cmd_unreg_buf, 0xc0207519U);
}

TEST(Abi, IoOpcodes) {
    EXPECT_EQ(abi::u_io_fetch_req, 0xc0107520U);
    EXPECT_EQ(abi::u_io_commit_and_fetch_req, 0xc0107521U);
    EXPECT_EQ(abi::u_io_need_get_data, 0xc0107522U);
    EXPECT_EQ(abi::u_io_register_io_buf, 0xc0107523U);
    EXPECT_EQ(abi::u_io_unregister_io_buf, 0xc0107524U);
    EXPECT_EQ(abi::u_io_prep_io_cmds, 0xc0107525U);
    EXPECT_EQ(abi::u_io_commit_io_cmds, 0xc0107526U);
    EXPECT_EQ(abi::u_io_fetch_io_cmds, 0xc0107527U);
}

TEST(Abi, OpcodeNumberIsTheLegacyOpcode) {
    EXPECT_EQ(abi::opcode_number(abi::u_cmd_add_dev), abi::cmd_add_dev);
    EXPECT_EQ(abi::opcode_number(abi::u_cmd_get_dev_info2), abi::cmd_get_dev_info2);
    EXPECT_EQ(abi::opcode_number(abi::u_io_fetch_req), abi::io_fetch_req);
    EXPECT_EQ(abi::opcode_number(abi::u_io_need_get_data), abi::io_need_get_data);
}

TEST(Abi, FeatureFlagsAreTwentyOneDistinctBits) {
    const std::set<std::uint64_t> flags{abi::f_support_zero_copy,
                                        abi::f_uring_cmd_comp_in_task,
                                        abi::f_need_get_data,
                                        abi::f_user_recovery,
                                        abi::f_user_recovery_reissue,
                                        abi::f_unprivileged_dev,
                                        abi::f_cmd_ioctl_encode,
                                        abi::f_user_copy,
                                        abi::f_zoned,
                                        abi::f_user_recovery_fail_io,
                                        abi::f_update_size,
                                        abi::f_auto_buf_reg,
                                        abi::f_quiesce,
                                        abi::f_per_io_daemon,
                                        abi::f_buf_reg_off_daemon,
                                        abi::f_batch_io,
                                        abi::f_integrity,
                                        abi::f_safe_stop_dev,
                                        abi::f_no_auto_part_scan,
                                        abi::f_shmem_zc,
                                        abi::f_io_desc_size};
    ASSERT_EQ(flags.size(), 21U);
    std::uint64_t all = 0;
    for (const std::uint64_t flag : flags) {
        EXPECT_TRUE(std::has_single_bit(flag));
        all |= flag;
    }
    EXPECT_EQ(all, 0x1fffffU);
}

TEST(Abi, UserCopyLayoutFillsItsBits) {
    EXPECT_EQ(abi::io_buf_total_bits, 53U);
    EXPECT_EQ(abi::io_buf_total_size, 0x20'0000'0000'0000U);
    EXPECT_EQ(abi::max_nr_queues, 4096U);
    EXPECT_EQ(abi::io_buf_bits_mask, 0x1ff'ffffU);
    EXPECT_LT(abi::io_buf_offset + abi::io_buf_total_size, abi::io_integrity_flag);
}

TEST(Abi, RequestFlagsLeaveTheOpAlone) {
    constexpr std::uint32_t flags = abi::io_f_failfast_dev | abi::io_f_failfast_transport |
                                    abi::io_f_failfast_driver | abi::io_f_meta | abi::io_f_fua |
                                    abi::io_f_nounmap | abi::io_f_swap | abi::io_f_need_reg_buf |
                                    abi::io_f_integrity | abi::io_f_shmem_zc;
    EXPECT_EQ(flags, 0x000f'af00U);
    EXPECT_EQ(abi::io_res_abort, -19);
}

TEST(Abi, IntegrityValues) {
    EXPECT_EQ(abi::pi_cap_integrity, 1U);
    EXPECT_EQ(abi::pi_cap_reftag, 2U);
    EXPECT_EQ(abi::pi_csum_none, 0);
    EXPECT_EQ(abi::pi_csum_ip, 1);
    EXPECT_EQ(abi::pi_csum_crc16_t10dif, 2);
    EXPECT_EQ(abi::pi_csum_crc64_nvme, 4);
}

}  // namespace
}  // namespace ashlar::kernel
