// decode_request on every descriptor a kernel could write: nothing overflows, what is accepted
// means the same again, what is refused leaves the request alone.
#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "kernel/codec.h"

namespace {

using namespace ashlar;

void require(bool condition) {
    if (!condition) std::abort();
}

struct Input {
    kernel::abi::IoDesc desc;
    std::uint16_t queue;
    std::uint16_t tag;
};

void check_accepted(const Input& input, const Request& request) {
    const std::uint32_t op = input.desc.op_flags & 0xff;
    require(request.queue == input.queue && request.tag == input.tag);
    require(request.buffer.is_memory() && request.bytes().empty());
    require(request.offset % 512 == 0);
    require(request.length <= (std::uint64_t{1} << 63) - request.offset);
    require(name(request.op) != "unknown");
    require(request.fua == ((input.desc.op_flags & kernel::abi::io_f_fua) != 0));
    require(request.no_unmap == ((input.desc.op_flags & kernel::abi::io_f_nounmap) != 0));

    const bool without_range =
        op == kernel::abi::io_op_flush || op == kernel::abi::io_op_zone_reset_all;
    if (without_range) {
        require(request.offset == 0 && request.length == 0);
    } else {
        const std::uint64_t unit = op == kernel::abi::io_op_report_zones ? 64 : 512;
        require(request.offset / 512 == input.desc.start_sector);
        require(request.length == input.desc.nr_sectors * unit);
    }

    const kernel::abi::IoDesc again =
        kernel::encode_request(request, kernel::kernel_flags(input.desc), input.desc.addr);
    require(again.op_flags == input.desc.op_flags && again.addr == input.desc.addr);
    Request second;
    require(kernel::decode_request(again, input.queue, input.tag, second) == 0);
    require(second.offset == request.offset && second.length == request.length);
    require(second.op == request.op);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Input input{};
    std::memcpy(&input, data, size < sizeof input ? size : sizeof input);

    Request request{.offset = 1, .length = 2};
    const int error = kernel::decode_request(input.desc, input.queue, input.tag, request);
    if (error == 0) {
        check_accepted(input, request);
    } else {
        require(error == EOPNOTSUPP || error == EINVAL);
        require(request.offset == 1 && request.length == 2);
    }

    // The packed addresses lose nothing but the bits that must be zero.
    const std::uint64_t addr = input.desc.addr;
    require(kernel::encode_shmem_address(kernel::decode_shmem_address(addr)) ==
            (addr & 0xffff'ffff'ffff));
    const auto reg = kernel::decode_auto_buf_reg(addr);
    require(kernel::encode_auto_buf_reg(reg.index, (reg.flags & 1) != 0) == (addr & 0x1'ffff));

    const kernel::UserCopyPosition position = kernel::decode_user_copy_offset(addr);
    const std::uint64_t offset =
        kernel::user_copy_offset(position.queue, position.tag, position.byte, position.integrity);
    require(offset <= INT64_MAX);
    require(kernel::decode_user_copy_offset(offset) == position);
    return 0;
}
