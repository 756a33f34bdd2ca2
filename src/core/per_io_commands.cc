// A command for each tag: fetch it, then commit its result and fetch it again.
#include <cerrno>

#include "core/commands.h"
#include "core/queue.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

class PerIoCommands final : public Commands {
public:
    explicit PerIoCommands(Queue& queue) noexcept
        : queue_(queue), ioctl_(queue.config().ioctl_commands) {}

    void fetch_all() noexcept override {
        for (Tag& tag : queue_.tags()) {
            submit(tag, ioctl_ ? abi::u_io_fetch_req : abi::io_fetch_req, 0);
        }
    }

    void commit(Tag& tag, std::int32_t result) noexcept override {
        submit(tag, ioctl_ ? abi::u_io_commit_and_fetch_req : abi::io_commit_and_fetch_req, result);
    }

    void get_data(Tag& tag) noexcept override {
        submit(tag, ioctl_ ? abi::u_io_need_get_data : abi::io_need_get_data, 0);
    }

    [[nodiscard]] bool is_settled(const Tag& tag) const noexcept override {
        return tag.opcode != (ioctl_ ? abi::u_io_need_get_data : abi::io_need_get_data);
    }

    void completed(Tag& tag, std::int32_t result) noexcept override {
        if (result == abi::io_res_ok || result == abi::io_res_need_get_data) [[likely]] {
            return queue_.arrived(tag, result == abi::io_res_need_get_data);
        }
        // The kernel did not take the command and asks for it once more.
        if (result == -EAGAIN || result == -EINTR) {
            queue_.submitted_again();
            return send(tag);
        }
        queue_.retire(tag);
        if (result != abi::io_res_abort) {
            queue_.refused("fetch requests", result < 0 ? -result : EPROTO);
        }
    }

private:
    void submit(Tag& tag, std::uint32_t opcode, std::int32_t result) noexcept {
        tag.submitted();
        tag.opcode = opcode;
        tag.command = kernel::make_io_cmd(queue_.config().index, tag.index(), result,
                                          queue_.command_address(tag));
        send(tag);
    }
    void send(Tag& tag) noexcept {
        queue_.reactor().io_command(queue_.file(), tag.opcode, tag.command,
                                    queue_.registration(tag), tag);
    }

    Queue& queue_;
    const bool ioctl_;
};

}  // namespace

Result<std::unique_ptr<Commands>> open_per_io_commands(Queue& queue) {
    return std::make_unique<PerIoCommands>(queue);
}

}  // namespace ashlar
