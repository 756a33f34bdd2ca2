#include "bare_device.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "kernel/codec.h"

namespace ashlar::bench {

namespace abi = kernel::abi;

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::uint32_t kIoMax = 1 << 20;
constexpr std::uint64_t kBytes = std::uint64_t{64} << 20;

void require(bool good, const char* what, int code) {
    if (good) return;
    std::fprintf(stderr, "%s: %s\n", what, std::strerror(code));
    std::exit(1);
}

io_uring_sqe* command_entry(io_uring& ring, int fd, std::uint32_t opcode, std::size_t bytes) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring);
    require(sqe != nullptr, "take a submission entry", ENOSPC);
    std::memset(static_cast<void*>(sqe), 0, bytes);
    sqe->opcode = IORING_OP_URING_CMD;
    sqe->fd = fd;
    sqe->off = opcode;
    return sqe;
}

}  // namespace

BareDevice::BareDevice(std::uint16_t queues, std::uint16_t depth)
    : control_(open("/dev/ublk-control", O_RDWR | O_CLOEXEC)) {
    require(control_.valid(), "open /dev/ublk-control", errno);
    const int code = io_uring_queue_init(4, &ring_, IORING_SETUP_SQE128);
    require(code == 0, "set up io_uring", -code);
    info_.nr_hw_queues = queues;
    info_.queue_depth = depth;
    info_.max_io_buf_bytes = kIoMax;
    info_.dev_id = kernel::any_device;
    info_.flags = abi::f_cmd_ioctl_encode | abi::f_user_copy;
    command(abi::u_cmd_add_dev, &info_, sizeof(info_));
    const abi::Params params =
        kernel::encode_params({.size = kBytes}, {}, {.io_max_bytes = kIoMax});
    command(abi::u_cmd_set_params, &params, sizeof(params));
    const std::string path = "/dev/ublkc" + std::to_string(info_.dev_id);
    device_ = Fd(open(path.c_str(), O_RDWR | O_CLOEXEC));
    require(device_.valid(), path.c_str(), errno);
    std::latch fetched(info_.nr_hw_queues);
    for (std::uint16_t queue = 0; queue < info_.nr_hw_queues; ++queue) {
        threads_.emplace_back([this, queue, &fetched] { serve(queue, fetched); });
    }
    fetched.wait();
    command(abi::u_cmd_start_dev, nullptr, 0, static_cast<std::uint64_t>(getpid()));
}

BareDevice::~BareDevice() {
    command(abi::u_cmd_stop_dev);
    for (std::thread& thread : threads_) thread.join();
    device_ = Fd();
    command(abi::u_cmd_del_dev);
    io_uring_queue_exit(&ring_);
}

void BareDevice::command(std::uint32_t opcode, const void* buffer, std::uint16_t length,
                         std::uint64_t data) {
    const abi::CtrlCmd command = kernel::make_control_command(
        {.dev_id = info_.dev_id, .buffer = buffer, .length = length, .data = data});
    io_uring_sqe* sqe = command_entry(ring_, control_.get(), opcode, 2 * sizeof(io_uring_sqe));
    std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    io_uring_submit_and_wait(&ring_, 1);
    io_uring_cqe* cqe = nullptr;
    io_uring_wait_cqe(&ring_, &cqe);
    require(cqe->res >= 0, "a control command", -cqe->res);
    io_uring_cqe_seen(&ring_, cqe);
}

void BareDevice::serve(std::uint16_t queue, std::latch& fetched) {
    io_uring ring{};
    const int code = io_uring_queue_init(info_.queue_depth, &ring,
                                         IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);
    require(code == 0, "set up io_uring", -code);
    const std::size_t bytes = kernel::descriptor_map_bytes(info_.queue_depth, kPage);
    void* const map = mmap(nullptr, bytes, PROT_READ, MAP_SHARED | MAP_POPULATE, device_.get(),
                           static_cast<off_t>(kernel::descriptor_map_offset(queue, kPage)));
    require(map != MAP_FAILED, "map the descriptors", errno);
    const auto* const descriptors = static_cast<const abi::IoDesc*>(map);
    const auto submit = [&](std::uint16_t tag, std::uint32_t opcode, std::int32_t result) {
        io_uring_sqe* sqe = command_entry(ring, device_.get(), opcode, sizeof(io_uring_sqe));
        sqe->user_data = tag;
        const abi::IoCmd command = kernel::make_io_cmd(queue, tag, result, 0);
        std::memcpy(static_cast<void*>(sqe->cmd), &command, sizeof(command));
    };
    for (std::uint16_t tag = 0; tag < info_.queue_depth; ++tag) {
        submit(tag, abi::u_io_fetch_req, 0);
    }
    io_uring_submit(&ring);
    fetched.count_down();
    const std::vector<std::byte> zeroes(kIoMax);
    for (bool ends = false; !ends;) {
        io_uring_submit_and_wait(&ring, 1);
        unsigned head = 0;
        unsigned count = 0;
        io_uring_cqe* cqe = nullptr;
        io_uring_for_each_cqe(&ring, head, cqe) {
            ++count;
            ends |= cqe->res != abi::io_res_ok;
            if (ends) continue;
            const auto tag = static_cast<std::uint16_t>(cqe->user_data);
            Request wanted;
            const int refused = kernel::decode_request(descriptors[tag], queue, tag, wanted);
            require(refused == 0, "understand a request", refused);
            const auto place = static_cast<off_t>(kernel::user_copy_offset(queue, tag, 0));
            const auto moved = wanted.op == Op::read
                                   ? pwrite(device_.get(), zeroes.data(), wanted.length, place)
                                   : 0;
            require(moved >= 0, "give the data of a read", errno);
            submit(tag, abi::u_io_commit_and_fetch_req, static_cast<std::int32_t>(wanted.length));
        }
        io_uring_cq_advance(&ring, count);
    }
    munmap(map, bytes);
    io_uring_queue_exit(&ring);
}

}  // namespace ashlar::bench
