// Compares abi.h with a kernel's own header: every value, every structure's size, every field's
// place and size; and fails when the header has something that is not compared here.
//
// What it needs from the build, once a header has been fetched (vm/fetch --headers):
//   - <linux/ublk_cmd.h> of Linux 7.3 or later: its directory (the one that holds linux/) with
//     -isystem before all others; plain -I would turn that header's own warnings into errors;
//   - ASHLAR_KERNEL_HEADER, a string literal: the path of the same file, to be read at run time.
#include <linux/blkzoned.h>
#include <linux/fs.h>
#include <linux/ublk_cmd.h>

#include <cstddef>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <regex>
#include <set>
#include <string>

#include <gtest/gtest.h>

#include "kernel/codec.h"

#ifndef ASHLAR_KERNEL_HEADER
#error "ASHLAR_KERNEL_HEADER must be the path of linux/ublk_cmd.h"
#endif

namespace ashlar::kernel {
namespace {

// ---- What is compared --------------------------------------------------------------------------

struct ValueRow {
    const char* name;
    long long kernel;
    long long ours;
};
#define VALUE(kernel_name, our_name) \
    ValueRow { #kernel_name, static_cast<long long>(kernel_name), static_cast<long long>(our_name) }

const ValueRow values[] = {
    VALUE(UBLK_CMD_GET_QUEUE_AFFINITY, abi::cmd_get_queue_affinity),
    VALUE(UBLK_CMD_GET_DEV_INFO, abi::cmd_get_dev_info),
    VALUE(UBLK_CMD_ADD_DEV, abi::cmd_add_dev),
    VALUE(UBLK_CMD_DEL_DEV, abi::cmd_del_dev),
    VALUE(UBLK_CMD_START_DEV, abi::cmd_start_dev),
    VALUE(UBLK_CMD_STOP_DEV, abi::cmd_stop_dev),
    VALUE(UBLK_CMD_SET_PARAMS, abi::cmd_set_params),
    VALUE(UBLK_CMD_GET_PARAMS, abi::cmd_get_params),
    VALUE(UBLK_CMD_START_USER_RECOVERY, abi::cmd_start_user_recovery),
    VALUE(UBLK_CMD_END_USER_RECOVERY, abi::cmd_end_user_recovery),
    VALUE(UBLK_CMD_GET_DEV_INFO2, abi::cmd_get_dev_info2),
    VALUE(UBLK_U_CMD_GET_QUEUE_AFFINITY, abi::u_cmd_get_queue_affinity),
    VALUE(UBLK_U_CMD_GET_DEV_INFO, abi::u_cmd_get_dev_info),
    VALUE(UBLK_U_CMD_ADD_DEV, abi::u_cmd_add_dev),
    VALUE(UBLK_U_CMD_DEL_DEV, abi::u_cmd_del_dev),
    VALUE(UBLK_U_CMD_START_DEV, abi::u_cmd_start_dev),
    VALUE(UBLK_U_CMD_STOP_DEV, abi::u_cmd_stop_dev),
    VALUE(UBLK_U_CMD_SET_PARAMS, abi::u_cmd_set_params),
    VALUE(UBLK_U_CMD_GET_PARAMS, abi::u_cmd_get_params),
    VALUE(UBLK_U_CMD_START_USER_RECOVERY, abi::u_cmd_start_user_recovery),
    VALUE(UBLK_U_CMD_END_USER_RECOVERY, abi::u_cmd_end_user_recovery),
    VALUE(UBLK_U_CMD_GET_DEV_INFO2, abi::u_cmd_get_dev_info2),
    VALUE(UBLK_U_CMD_GET_FEATURES, abi::u_cmd_get_features),
    VALUE(UBLK_U_CMD_DEL_DEV_ASYNC, abi::u_cmd_del_dev_async),
    VALUE(UBLK_U_CMD_UPDATE_SIZE, abi::u_cmd_update_size),
    VALUE(UBLK_U_CMD_QUIESCE_DEV, abi::u_cmd_quiesce_dev),
    VALUE(UBLK_U_CMD_TRY_STOP_DEV, abi::u_cmd_try_stop_dev),
    VALUE(UBLK_U_CMD_REG_BUF, abi::u_cmd_reg_buf),
    VALUE(UBLK_U_CMD_UNREG_BUF, abi::u_cmd_unreg_buf),
    VALUE(UBLK_SHMEM_BUF_READ_ONLY, abi::shmem_buf_read_only),
    VALUE(UBLK_FEATURES_LEN, abi::features_len),
    VALUE(UBLK_IO_FETCH_REQ, abi::io_fetch_req),
    VALUE(UBLK_IO_COMMIT_AND_FETCH_REQ, abi::io_commit_and_fetch_req),
    VALUE(UBLK_IO_NEED_GET_DATA, abi::io_need_get_data),
    VALUE(UBLK_U_IO_FETCH_REQ, abi::u_io_fetch_req),
    VALUE(UBLK_U_IO_COMMIT_AND_FETCH_REQ, abi::u_io_commit_and_fetch_req),
    VALUE(UBLK_U_IO_NEED_GET_DATA, abi::u_io_need_get_data),
    VALUE(UBLK_U_IO_REGISTER_IO_BUF, abi::u_io_register_io_buf),
    VALUE(UBLK_U_IO_UNREGISTER_IO_BUF, abi::u_io_unregister_io_buf),
    VALUE(UBLK_U_IO_PREP_IO_CMDS, abi::u_io_prep_io_cmds),
    VALUE(UBLK_U_IO_COMMIT_IO_CMDS, abi::u_io_commit_io_cmds),
    VALUE(UBLK_U_IO_FETCH_IO_CMDS, abi::u_io_fetch_io_cmds),
    VALUE(UBLK_IO_RES_OK, abi::io_res_ok),
    VALUE(UBLK_IO_RES_NEED_GET_DATA, abi::io_res_need_get_data),
    VALUE(UBLK_IO_RES_ABORT, abi::io_res_abort),
    VALUE(UBLKSRV_CMD_BUF_OFFSET, abi::cmd_buf_offset),
    VALUE(UBLKSRV_IO_BUF_OFFSET, abi::io_buf_offset),
    VALUE(UBLK_MAX_QUEUE_DEPTH, abi::max_queue_depth),
    VALUE(UBLK_IO_BUF_OFF, abi::io_buf_off),
    VALUE(UBLK_IO_BUF_BITS, abi::io_buf_bits),
    VALUE(UBLK_IO_BUF_BITS_MASK, abi::io_buf_bits_mask),
    VALUE(UBLK_TAG_OFF, abi::tag_off),
    VALUE(UBLK_TAG_BITS, abi::tag_bits),
    VALUE(UBLK_TAG_BITS_MASK, abi::tag_bits_mask),
    VALUE(UBLK_QID_OFF, abi::qid_off),
    VALUE(UBLK_QID_BITS, abi::qid_bits),
    VALUE(UBLK_QID_BITS_MASK, abi::qid_bits_mask),
    VALUE(UBLK_MAX_NR_QUEUES, abi::max_nr_queues),
    VALUE(UBLKSRV_IO_BUF_TOTAL_BITS, abi::io_buf_total_bits),
    VALUE(UBLKSRV_IO_BUF_TOTAL_SIZE, abi::io_buf_total_size),
    VALUE(UBLK_INTEGRITY_FLAG_OFF, abi::integrity_flag_off),
    VALUE(UBLKSRV_IO_INTEGRITY_FLAG, abi::io_integrity_flag),
    VALUE(UBLK_F_SUPPORT_ZERO_COPY, abi::f_support_zero_copy),
    VALUE(UBLK_F_URING_CMD_COMP_IN_TASK, abi::f_uring_cmd_comp_in_task),
    VALUE(UBLK_F_NEED_GET_DATA, abi::f_need_get_data),
    VALUE(UBLK_F_USER_RECOVERY, abi::f_user_recovery),
    VALUE(UBLK_F_USER_RECOVERY_REISSUE, abi::f_user_recovery_reissue),
    VALUE(UBLK_F_UNPRIVILEGED_DEV, abi::f_unprivileged_dev),
    VALUE(UBLK_F_CMD_IOCTL_ENCODE, abi::f_cmd_ioctl_encode),
    VALUE(UBLK_F_USER_COPY, abi::f_user_copy),
    VALUE(UBLK_F_ZONED, abi::f_zoned),
    VALUE(UBLK_F_USER_RECOVERY_FAIL_IO, abi::f_user_recovery_fail_io),
    VALUE(UBLK_F_UPDATE_SIZE, abi::f_update_size),
    VALUE(UBLK_F_AUTO_BUF_REG, abi::f_auto_buf_reg),
    VALUE(UBLK_F_QUIESCE, abi::f_quiesce),
    VALUE(UBLK_F_PER_IO_DAEMON, abi::f_per_io_daemon),
    VALUE(UBLK_F_BUF_REG_OFF_DAEMON, abi::f_buf_reg_off_daemon),
    VALUE(UBLK_F_BATCH_IO, abi::f_batch_io),
    VALUE(UBLK_F_INTEGRITY, abi::f_integrity),
    VALUE(UBLK_F_SAFE_STOP_DEV, abi::f_safe_stop_dev),
    VALUE(UBLK_F_NO_AUTO_PART_SCAN, abi::f_no_auto_part_scan),
    VALUE(UBLK_F_SHMEM_ZC, abi::f_shmem_zc),
    VALUE(UBLK_F_IO_DESC_SIZE, abi::f_io_desc_size),
    VALUE(UBLK_S_DEV_DEAD, abi::DevState::dead),
    VALUE(UBLK_S_DEV_LIVE, abi::DevState::live),
    VALUE(UBLK_S_DEV_QUIESCED, abi::DevState::quiesced),
    VALUE(UBLK_S_DEV_FAIL_IO, abi::DevState::fail_io),
    VALUE(UBLK_IO_OP_READ, abi::io_op_read),
    VALUE(UBLK_IO_OP_WRITE, abi::io_op_write),
    VALUE(UBLK_IO_OP_FLUSH, abi::io_op_flush),
    VALUE(UBLK_IO_OP_DISCARD, abi::io_op_discard),
    VALUE(UBLK_IO_OP_WRITE_SAME, abi::io_op_write_same),
    VALUE(UBLK_IO_OP_WRITE_ZEROES, abi::io_op_write_zeroes),
    VALUE(UBLK_IO_OP_ZONE_OPEN, abi::io_op_zone_open),
    VALUE(UBLK_IO_OP_ZONE_CLOSE, abi::io_op_zone_close),
    VALUE(UBLK_IO_OP_ZONE_FINISH, abi::io_op_zone_finish),
    VALUE(UBLK_IO_OP_ZONE_APPEND, abi::io_op_zone_append),
    VALUE(UBLK_IO_OP_ZONE_RESET_ALL, abi::io_op_zone_reset_all),
    VALUE(UBLK_IO_OP_ZONE_RESET, abi::io_op_zone_reset),
    VALUE(UBLK_IO_OP_REPORT_ZONES, abi::io_op_report_zones),
    VALUE(UBLK_IO_F_FAILFAST_DEV, abi::io_f_failfast_dev),
    VALUE(UBLK_IO_F_FAILFAST_TRANSPORT, abi::io_f_failfast_transport),
    VALUE(UBLK_IO_F_FAILFAST_DRIVER, abi::io_f_failfast_driver),
    VALUE(UBLK_IO_F_META, abi::io_f_meta),
    VALUE(UBLK_IO_F_FUA, abi::io_f_fua),
    VALUE(UBLK_IO_F_NOUNMAP, abi::io_f_nounmap),
    VALUE(UBLK_IO_F_SWAP, abi::io_f_swap),
    VALUE(UBLK_IO_F_NEED_REG_BUF, abi::io_f_need_reg_buf),
    VALUE(UBLK_IO_F_INTEGRITY, abi::io_f_integrity),
    VALUE(UBLK_IO_F_SHMEM_ZC, abi::io_f_shmem_zc),
    VALUE(UBLK_AUTO_BUF_REG_FALLBACK, abi::auto_buf_reg_fallback),
    VALUE(UBLK_AUTO_BUF_REG_F_MASK, abi::auto_buf_reg_f_mask),
    VALUE(UBLK_BATCH_F_HAS_ZONE_LBA, abi::batch_f_has_zone_lba),
    VALUE(UBLK_BATCH_F_HAS_BUF_ADDR, abi::batch_f_has_buf_addr),
    VALUE(UBLK_BATCH_F_AUTO_BUF_REG_FALLBACK, abi::batch_f_auto_buf_reg_fallback),
    VALUE(UBLK_ATTR_READ_ONLY, abi::attr_read_only),
    VALUE(UBLK_ATTR_ROTATIONAL, abi::attr_rotational),
    VALUE(UBLK_ATTR_VOLATILE_CACHE, abi::attr_volatile_cache),
    VALUE(UBLK_ATTR_FUA, abi::attr_fua),
    VALUE(UBLK_MIN_SEGMENT_SIZE, abi::min_segment_size),
    VALUE(UBLK_PARAM_TYPE_BASIC, abi::param_type_basic),
    VALUE(UBLK_PARAM_TYPE_DISCARD, abi::param_type_discard),
    VALUE(UBLK_PARAM_TYPE_DEVT, abi::param_type_devt),
    VALUE(UBLK_PARAM_TYPE_ZONED, abi::param_type_zoned),
    VALUE(UBLK_PARAM_TYPE_DMA_ALIGN, abi::param_type_dma_align),
    VALUE(UBLK_PARAM_TYPE_SEGMENT, abi::param_type_segment),
    VALUE(UBLK_PARAM_TYPE_INTEGRITY, abi::param_type_integrity),
    VALUE(UBLK_SHMEM_ZC_OFF_MASK, abi::shmem_zc_off_mask),
    VALUE(UBLK_SHMEM_ZC_IDX_OFF, abi::shmem_zc_idx_off),
    VALUE(UBLK_SHMEM_ZC_IDX_MASK, abi::shmem_zc_idx_mask),
};

// The zones' and the checksums' values are in headers of their own; old ones lack the latter.
const ValueRow related_values[] = {
    VALUE(BLK_ZONE_TYPE_CONVENTIONAL, abi::zone_type_conventional),
    VALUE(BLK_ZONE_TYPE_SEQWRITE_REQ, abi::zone_type_seqwrite_req),
    VALUE(BLK_ZONE_TYPE_SEQWRITE_PREF, abi::zone_type_seqwrite_pref),
    VALUE(BLK_ZONE_COND_NOT_WP, abi::zone_cond_not_wp),
    VALUE(BLK_ZONE_COND_EMPTY, abi::zone_cond_empty),
    VALUE(BLK_ZONE_COND_IMP_OPEN, abi::zone_cond_imp_open),
    VALUE(BLK_ZONE_COND_EXP_OPEN, abi::zone_cond_exp_open),
    VALUE(BLK_ZONE_COND_CLOSED, abi::zone_cond_closed),
    VALUE(BLK_ZONE_COND_READONLY, abi::zone_cond_readonly),
    VALUE(BLK_ZONE_COND_FULL, abi::zone_cond_full),
    VALUE(BLK_ZONE_COND_OFFLINE, abi::zone_cond_offline),
#ifdef LBMD_PI_CAP_INTEGRITY
    VALUE(LBMD_PI_CAP_INTEGRITY, abi::pi_cap_integrity),
    VALUE(LBMD_PI_CAP_REFTAG, abi::pi_cap_reftag),
    VALUE(LBMD_PI_CSUM_NONE, abi::pi_csum_none),
    VALUE(LBMD_PI_CSUM_IP, abi::pi_csum_ip),
    VALUE(LBMD_PI_CSUM_CRC16_T10DIF, abi::pi_csum_crc16_t10dif),
    VALUE(LBMD_PI_CSUM_CRC64_NVME, abi::pi_csum_crc64_nvme),
#endif
};

struct StructureRow {
    const char* name;
    std::size_t kernel_size, our_size;
    std::size_t kernel_alignment, our_alignment;
};
#define STRUCTURE(kernel_name, our_name)                                           \
    StructureRow {                                                                 \
        #kernel_name, sizeof(kernel_name), sizeof(our_name), alignof(kernel_name), \
            alignof(our_name)                                                      \
    }

const StructureRow structures[] = {
    STRUCTURE(ublk_shmem_buf_reg, abi::ShmemBufReg),
    STRUCTURE(ublksrv_ctrl_cmd, abi::CtrlCmd),
    STRUCTURE(ublksrv_ctrl_dev_info, abi::DevInfo),
    STRUCTURE(ublksrv_io_desc, abi::IoDesc),
    STRUCTURE(ublk_auto_buf_reg, abi::AutoBufReg),
    STRUCTURE(ublksrv_io_cmd, abi::IoCmd),
    STRUCTURE(ublk_elem_header, abi::ElemHeader),
    STRUCTURE(ublk_batch_io, abi::BatchIo),
    STRUCTURE(ublk_param_basic, abi::ParamBasic),
    STRUCTURE(ublk_param_discard, abi::ParamDiscard),
    STRUCTURE(ublk_param_devt, abi::ParamDevt),
    STRUCTURE(ublk_param_zoned, abi::ParamZoned),
    STRUCTURE(ublk_param_dma_align, abi::ParamDmaAlign),
    STRUCTURE(ublk_param_segment, abi::ParamSegment),
    STRUCTURE(ublk_param_integrity, abi::ParamIntegrity),
    STRUCTURE(ublk_params, abi::Params),
    STRUCTURE(blk_zone, abi::Zone),
};

struct FieldRow {
    const char* structure;
    const char* field;
    std::size_t kernel_offset, our_offset;
    std::size_t kernel_size, our_size;
};
#define FIELD(kernel_name, our_name, field)                                            \
    FieldRow {                                                                         \
        #kernel_name, #field, offsetof(kernel_name, field), offsetof(our_name, field), \
            sizeof(kernel_name::field), sizeof(our_name::field)                        \
    }

const FieldRow fields[] = {
    FIELD(ublk_shmem_buf_reg, abi::ShmemBufReg, addr),
    FIELD(ublk_shmem_buf_reg, abi::ShmemBufReg, len),
    FIELD(ublk_shmem_buf_reg, abi::ShmemBufReg, flags),
    FIELD(ublk_shmem_buf_reg, abi::ShmemBufReg, reserved),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, dev_id),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, queue_id),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, len),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, addr),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, data),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, dev_path_len),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, pad),
    FIELD(ublksrv_ctrl_cmd, abi::CtrlCmd, reserved),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, nr_hw_queues),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, queue_depth),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, state),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, io_desc_size),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, max_io_buf_bytes),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, dev_id),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, ublksrv_pid),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, pad1),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, flags),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, ublksrv_flags),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, owner_uid),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, owner_gid),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, reserved1),
    FIELD(ublksrv_ctrl_dev_info, abi::DevInfo, reserved2),
    FIELD(ublksrv_io_desc, abi::IoDesc, op_flags),
    FIELD(ublksrv_io_desc, abi::IoDesc, nr_sectors),
    FIELD(ublksrv_io_desc, abi::IoDesc, nr_zones),
    FIELD(ublksrv_io_desc, abi::IoDesc, start_sector),
    FIELD(ublksrv_io_desc, abi::IoDesc, addr),
    FIELD(ublk_auto_buf_reg, abi::AutoBufReg, index),
    FIELD(ublk_auto_buf_reg, abi::AutoBufReg, flags),
    FIELD(ublk_auto_buf_reg, abi::AutoBufReg, reserved0),
    FIELD(ublk_auto_buf_reg, abi::AutoBufReg, reserved1),
    FIELD(ublksrv_io_cmd, abi::IoCmd, q_id),
    FIELD(ublksrv_io_cmd, abi::IoCmd, tag),
    FIELD(ublksrv_io_cmd, abi::IoCmd, result),
    FIELD(ublksrv_io_cmd, abi::IoCmd, addr),
    FIELD(ublksrv_io_cmd, abi::IoCmd, zone_append_lba),
    FIELD(ublk_elem_header, abi::ElemHeader, tag),
    FIELD(ublk_elem_header, abi::ElemHeader, buf_index),
    FIELD(ublk_elem_header, abi::ElemHeader, result),
    FIELD(ublk_batch_io, abi::BatchIo, q_id),
    FIELD(ublk_batch_io, abi::BatchIo, flags),
    FIELD(ublk_batch_io, abi::BatchIo, nr_elem),
    FIELD(ublk_batch_io, abi::BatchIo, elem_bytes),
    FIELD(ublk_batch_io, abi::BatchIo, reserved),
    FIELD(ublk_batch_io, abi::BatchIo, reserved2),
    FIELD(ublk_param_basic, abi::ParamBasic, attrs),
    FIELD(ublk_param_basic, abi::ParamBasic, logical_bs_shift),
    FIELD(ublk_param_basic, abi::ParamBasic, physical_bs_shift),
    FIELD(ublk_param_basic, abi::ParamBasic, io_opt_shift),
    FIELD(ublk_param_basic, abi::ParamBasic, io_min_shift),
    FIELD(ublk_param_basic, abi::ParamBasic, max_sectors),
    FIELD(ublk_param_basic, abi::ParamBasic, chunk_sectors),
    FIELD(ublk_param_basic, abi::ParamBasic, dev_sectors),
    FIELD(ublk_param_basic, abi::ParamBasic, virt_boundary_mask),
    FIELD(ublk_param_discard, abi::ParamDiscard, discard_alignment),
    FIELD(ublk_param_discard, abi::ParamDiscard, discard_granularity),
    FIELD(ublk_param_discard, abi::ParamDiscard, max_discard_sectors),
    FIELD(ublk_param_discard, abi::ParamDiscard, max_write_zeroes_sectors),
    FIELD(ublk_param_discard, abi::ParamDiscard, max_discard_segments),
    FIELD(ublk_param_discard, abi::ParamDiscard, reserved0),
    FIELD(ublk_param_devt, abi::ParamDevt, char_major),
    FIELD(ublk_param_devt, abi::ParamDevt, char_minor),
    FIELD(ublk_param_devt, abi::ParamDevt, disk_major),
    FIELD(ublk_param_devt, abi::ParamDevt, disk_minor),
    FIELD(ublk_param_zoned, abi::ParamZoned, max_open_zones),
    FIELD(ublk_param_zoned, abi::ParamZoned, max_active_zones),
    FIELD(ublk_param_zoned, abi::ParamZoned, max_zone_append_sectors),
    FIELD(ublk_param_zoned, abi::ParamZoned, reserved),
    FIELD(ublk_param_dma_align, abi::ParamDmaAlign, alignment),
    FIELD(ublk_param_dma_align, abi::ParamDmaAlign, pad),
    FIELD(ublk_param_segment, abi::ParamSegment, seg_boundary_mask),
    FIELD(ublk_param_segment, abi::ParamSegment, max_segment_size),
    FIELD(ublk_param_segment, abi::ParamSegment, max_segments),
    FIELD(ublk_param_segment, abi::ParamSegment, pad),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, flags),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, max_integrity_segments),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, interval_exp),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, metadata_size),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, pi_offset),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, csum_type),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, tag_size),
    FIELD(ublk_param_integrity, abi::ParamIntegrity, pad),
    FIELD(ublk_params, abi::Params, len),
    FIELD(ublk_params, abi::Params, types),
    FIELD(ublk_params, abi::Params, basic),
    FIELD(ublk_params, abi::Params, discard),
    FIELD(ublk_params, abi::Params, devt),
    FIELD(ublk_params, abi::Params, zoned),
    FIELD(ublk_params, abi::Params, dma),
    FIELD(ublk_params, abi::Params, seg),
    FIELD(ublk_params, abi::Params, integrity),
    FIELD(blk_zone, abi::Zone, start),
    FIELD(blk_zone, abi::Zone, len),
    FIELD(blk_zone, abi::Zone, wp),
    FIELD(blk_zone, abi::Zone, type),
    FIELD(blk_zone, abi::Zone, cond),
    FIELD(blk_zone, abi::Zone, non_seq),
    FIELD(blk_zone, abi::Zone, reset),
    FIELD(blk_zone, abi::Zone, resv),
    FIELD(blk_zone, abi::Zone, capacity),
    FIELD(blk_zone, abi::Zone, reserved),
};

// The header's functions, compared with the codec's in the tests below.
const std::set<std::string> functions{
    "ublksrv_get_op",
    "ublksrv_get_flags",
    "ublk_sqe_addr_to_auto_buf_reg",
    "ublk_auto_buf_reg_to_sqe_addr",
    "ublk_shmem_zc_addr",
    "ublk_shmem_zc_index",
    "ublk_shmem_zc_offset",
};

// ---- The comparison ----------------------------------------------------------------------------

TEST(AbiHeader, Values) {
    for (const ValueRow& row : values) EXPECT_EQ(row.ours, row.kernel) << row.name;
    for (const ValueRow& row : related_values) EXPECT_EQ(row.ours, row.kernel) << row.name;
}

TEST(AbiHeader, Structures) {
    for (const StructureRow& row : structures) {
        EXPECT_EQ(row.our_size, row.kernel_size) << row.name;
        EXPECT_EQ(row.our_alignment, row.kernel_alignment) << row.name;
    }
}

TEST(AbiHeader, Fields) {
    for (const FieldRow& row : fields) {
        EXPECT_EQ(row.our_offset, row.kernel_offset) << row.structure << "::" << row.field;
        EXPECT_EQ(row.our_size, row.kernel_size) << row.structure << "::" << row.field;
    }
}

// Sample words that set every bit of every part at least once.
const std::uint64_t samples[] = {0, 1, 0xffff, 0x10000, 0x0102'0304'0506'0708, ~std::uint64_t{0}};

TEST(AbiHeader, DescriptorFunctions) {
    for (const std::uint64_t sample : samples) {
        abi::IoDesc ours{};
        ours.op_flags = static_cast<std::uint32_t>(sample);
        ublksrv_io_desc kernel{};
        kernel.op_flags = ours.op_flags;
        EXPECT_EQ(ours.op_flags & 0xff, ublksrv_get_op(&kernel));
        EXPECT_EQ(kernel_flags(ours) >> 8, ublksrv_get_flags(&kernel));
    }
}

TEST(AbiHeader, AutoBufRegFunctions) {
    for (const std::uint64_t sample : samples) {
        const abi::AutoBufReg ours = decode_auto_buf_reg(sample);
        const ublk_auto_buf_reg kernel = ublk_sqe_addr_to_auto_buf_reg(sample);
        EXPECT_EQ(ours.index, kernel.index);
        EXPECT_EQ(ours.flags, kernel.flags);
        EXPECT_EQ(ours.reserved0, kernel.reserved0);
        EXPECT_EQ(ours.reserved1, kernel.reserved1);
    }
    for (const std::uint16_t index : std::initializer_list<std::uint16_t>{0, 1, 4095, 0xffff}) {
        ublk_auto_buf_reg kernel{};
        kernel.index = index;
        EXPECT_EQ(encode_auto_buf_reg(index, false), ublk_auto_buf_reg_to_sqe_addr(&kernel));
        kernel.flags = UBLK_AUTO_BUF_REG_FALLBACK;
        EXPECT_EQ(encode_auto_buf_reg(index, true), ublk_auto_buf_reg_to_sqe_addr(&kernel));
    }
}

TEST(AbiHeader, ShmemFunctions) {
    for (const std::uint64_t sample : samples) {
        const ShmemAddress ours = decode_shmem_address(sample);
        EXPECT_EQ(ours.index, ublk_shmem_zc_index(sample));
        EXPECT_EQ(ours.offset, ublk_shmem_zc_offset(sample));
        EXPECT_EQ(encode_shmem_address(ours), ublk_shmem_zc_addr(ours.index, ours.offset));
    }
}

// ---- Nothing in the header is left out ---------------------------------------------------------

std::string header_without_comments() {
    std::ifstream file(ASHLAR_KERNEL_HEADER);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    for (std::size_t start = 0; (start = text.find("/*", start)) != std::string::npos;) {
        const std::size_t end = text.find("*/", start + 2);
        if (end == std::string::npos) break;
        text.replace(start, end + 2 - start, " ");
    }
    return text;
}

// The first group of every match, each once.
std::set<std::string> found(const std::string& text, const char* pattern) {
    const std::regex expression(pattern);
    std::set<std::string> names;
    for (std::sregex_iterator match(text.begin(), text.end(), expression), end; match != end;
         ++match) {
        names.insert((*match)[1].str());
    }
    return names;
}

TEST(AbiHeader, EveryDefineIsCompared) {
    std::set<std::string> compared;
    for (const ValueRow& row : values) compared.insert(row.name);
    const auto defined = found(header_without_comments(), "#[ \t]*define[ \t]+(UBLK\\w+)");
    EXPECT_GE(defined.size(), 100U) << "of " << ASHLAR_KERNEL_HEADER;
    for (const std::string& name : defined) {
        EXPECT_TRUE(compared.contains(name)) << name << " is new in " << ASHLAR_KERNEL_HEADER;
    }
}

TEST(AbiHeader, EveryFieldIsCompared) {
    std::set<std::string> compared;
    for (const StructureRow& row : structures) compared.insert(row.name);
    for (const FieldRow& row : fields) {
        compared.insert(std::string(row.structure) + "::" + row.field);
    }
    const std::string text = header_without_comments();
    const auto names = found(text, "\nstruct[ \t]+(\\w+)\\s*\\{");
    EXPECT_GE(names.size(), 16U) << "of " << ASHLAR_KERNEL_HEADER;
    for (const std::string& name : names) {
        EXPECT_TRUE(compared.contains(name)) << name << " is new in " << ASHLAR_KERNEL_HEADER;
        // A structure ends with the first brace that starts a line; those of its unions do not.
        const std::size_t start = text.find("\nstruct " + name);
        ASSERT_NE(start, std::string::npos) << name;
        const std::string body = text.substr(start, text.find("\n};", start) - start);
        for (const std::string& field : found(body, "(\\w+)\\s*(?:\\[[^\\]]*\\])?\\s*;")) {
            EXPECT_TRUE(compared.contains(name + "::" + field))
                << name << "::" << field << " is new in " << ASHLAR_KERNEL_HEADER;
        }
    }
}

TEST(AbiHeader, ThereAreNoEnumerations) {
    EXPECT_EQ(header_without_comments().find("\nenum"), std::string::npos)
        << "compare it above, then change this test";
}

TEST(AbiHeader, EveryFunctionIsCompared) {
    const auto names =
        found(header_without_comments(), "static\\s+(?:__inline__|inline)[\\w\\s]*?(\\w+)\\s*\\(");
    EXPECT_GE(names.size(), functions.size());
    for (const std::string& name : names) {
        EXPECT_TRUE(functions.contains(name)) << name << " is new in " << ASHLAR_KERNEL_HEADER;
    }
}

}  // namespace
}  // namespace ashlar::kernel
