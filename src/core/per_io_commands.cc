// A command for each tag: fetch it, then commit its result and fetch it again.
#include <cerrno>

#include "core/commands.h"
#include "core/queue.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

class PerIoCommands final : public Commands {
public:
    explicit PerIoCommands(Queue& queue) noexcept
        : queue_(queue),
          fetch_(ioctl(queue) ? abi::u_io_fetch_req : abi::io_fetch_req),
          commit_(ioctl(queue) ? abi::u_io_commit_and_fetch_req : abi::io_commit_and_fetch_req),
          get_data_(ioctl(queue) ? abi::u_io_need_get_data : abi::io_need_get_data) {}

    void fetch_all() noexcept override {
        for (Tag& tag : queue_.tags()) submit(tag, fetch_, 0);
    }

    void commit(Tag& tag, std::int32_t result) noexcept override { submit(tag, commit_, result); }

    void get_data(Tag& tag) noexcept override { submit(tag, get_data_, 0); }

    [[nodiscard]] bool is_settled(const Tag& tag) const noexcept override {
        return tag.command.opcode != get_data_;
    }

    void completed(Tag& tag, std::int32_t result) noexcept override {
        if (result == abi::io_res_need_get_data) return queue_.arrived_without_data(tag);
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
    static bool ioctl(Queue& queue) noexcept { return queue.config().ioctl_commands; }
    void submit(Tag& tag, std::uint32_t opcode, std::int32_t result) noexcept {
        tag.submitted();
        tag.command.opcode = opcode;
        tag.command.command.result = result;
        send(tag);
    }
    void send(Tag& tag) noexcept { queue_.reactor().io_command(tag.command, tag); }

    Queue& queue_;
    const std::uint32_t fetch_;
    const std::uint32_t commit_;
    const std::uint32_t get_data_;
};

}  // namespace

Result<std::unique_ptr<Commands>> open_per_io_commands(Queue& queue) {
    return std::make_unique<PerIoCommands>(queue);
}

}  // namespace ashlar
