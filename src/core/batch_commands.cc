// One command for many tags (kernel 7.0): all are prepared at once, a fetch delivers the tags of
// new requests again and again, and a round's results are committed together.
#include <algorithm>
#include <bit>
#include <cerrno>
#include <deque>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/assert.h"
#include "core/commands.h"
#include "core/queue.h"
#include "kernel/codec.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;

constexpr std::size_t kTagsPerBuffer = 128;  // the most that the driver delivers at once
constexpr unsigned kBuffersLeast = 8;

class BatchCommands final : public Commands, public RoundHook, public Operation {
public:
    explicit BatchCommands(Queue& queue) : queue_(queue), prepare_(*this) {
        const QueueConfig& config = queue.config();
        switch (config.data_path) {
            case DataPath::copy: flags_ = abi::batch_f_has_buf_addr; break;
            case DataPath::zero_copy: flags_ = abi::batch_f_auto_buf_reg_fallback; break;
            default: break;
        }
        prepare_.elements.resize(element_bytes() * config.depth);
        // Two are enough while the kernel takes a commit when it is submitted.
        for (int i = 0; i < 2; ++i) free_.push_back(&make_commit());
    }
    ~BatchCommands() override {
        queue_.reactor().forget(*this);
        if (group_) queue_.reactor().close_buffer_group(*group_);
    }
    BatchCommands(const BatchCommands&) = delete;
    BatchCommands& operator=(const BatchCommands&) = delete;

    Result<void> open() {
        const unsigned buffers = std::max<unsigned>(
            kBuffersLeast,
            std::bit_ceil(unsigned{queue_.config().depth} / unsigned{kTagsPerBuffer} * 2));
        delivered_.resize(buffers * kTagsPerBuffer);
        auto group = queue_.reactor().open_buffer_group(
            std::as_writable_bytes(std::span(delivered_)), buffers);
        if (!group) return std::unexpected(group.error());
        group_ = *group;
        return {};
    }

    void fetch_all() noexcept override {
        for (Tag& tag : queue_.tags()) {
            tag.submitted();
            add(prepare_, tag, 0);
        }
        prepare_.send(abi::u_io_prep_io_cmds);
    }

    void commit(Tag& tag, std::int32_t result) noexcept override {
        tag.submitted();
        if (current_ == nullptr) {
            if (free_.empty()) [[unlikely]] {
                current_ = &make_commit();
            } else {
                current_ = free_.back();
                free_.pop_back();
            }
            queue_.reactor().before_round(*this);
        }
        add(*current_, tag, result);
    }

    [[nodiscard]] bool is_settled(const Tag& tag) const noexcept override {
        return !is_committing(tag);
    }
    void get_data(Tag&) noexcept override { ASHLAR_ASSERT(false); }
    void completed(Tag&, std::int32_t) noexcept override { ASHLAR_ASSERT(false); }

    void before_round() noexcept override {
        std::exchange(current_, nullptr)->send(abi::u_io_commit_io_cmds);
    }

    // Of the fetch: tags in a buffer, or its end.
    void complete(std::int32_t result, std::uint32_t flags) noexcept override {
        if ((flags & completion::has_buffer) != 0) {
            const std::uint16_t buffer = completion::buffer_id(flags);
            deliver(buffer, result);
            queue_.reactor().recycle_buffer(*group_, buffer);
        }
        if ((flags & completion::more) != 0) return;
        // ENOBUFS: requests came faster than we looked; the buffers are free again.
        if (result >= 0 || result == -ENOBUFS || result == -EAGAIN || result == -EINTR) {
            return fetch();
        }
        ended_ = true;
        for (Tag& tag : queue_.tags()) {
            if (tag.state() == TagState::with_kernel && !is_committing(tag)) queue_.retire(tag);
        }
        if (result != abi::io_res_abort) queue_.refused("fetch requests", -result);
    }

private:
    // A prepare or a commit: elements in a row, some of which the kernel may leave over.
    class Batch final : public Operation {
    public:
        explicit Batch(BatchCommands& commands) : commands_(commands) {}
        void send(std::uint32_t used_opcode) noexcept {
            opcode = used_opcode;
            const std::size_t each = commands_.element_bytes();
            const Queue& queue = commands_.queue_;
            const auto command =
                kernel::make_batch_io(queue.config().index, commands_.flags_,
                                      static_cast<std::uint16_t>((end - begin) / each));
            commands_.queue_.reactor().batch_command(queue.file(), opcode, command,
                                                     elements.data() + begin, *this);
        }
        void complete(std::int32_t result, std::uint32_t) noexcept override {
            commands_.sent(*this, result);
        }
        [[nodiscard]] std::span<const std::byte> left() const noexcept {
            return std::span(elements).subspan(begin, end - begin);
        }

        std::vector<std::byte> elements;
        std::size_t begin = 0;  // bytes that the kernel has taken
        std::size_t end = 0;    // bytes that are filled
        std::uint32_t opcode = 0;

    private:
        BatchCommands& commands_;
    };

    [[nodiscard]] std::size_t element_bytes() const noexcept {
        return kernel::batch_element_bytes(flags_);
    }

    Batch& make_commit() {
        Batch& batch = commits_.emplace_back(*this);
        batch.elements.resize(element_bytes() * queue_.config().depth);
        return batch;
    }

    void add(Batch& batch, const Tag& tag, std::int32_t result) noexcept {
        const kernel::BatchElement element{
            .tag = tag.index(),
            .buf_index = tag.registered_index(),
            .result = result,
            .buf_addr = reinterpret_cast<std::uintptr_t>(tag.buffer()),
        };
        batch.end +=
            kernel::encode_batch_element(flags_, element, batch.elements.data() + batch.end);
    }

    void sent(Batch& batch, std::int32_t result) noexcept {
        const bool prepared = batch.opcode == abi::u_io_prep_io_cmds;
        // A prepare is all or nothing and answers 0; a commit answers the bytes it took.
        if (prepared && result == 0) batch.begin = batch.end;
        if (!prepared && result > 0) batch.begin += static_cast<std::size_t>(result);
        ASHLAR_ASSERT(batch.begin <= batch.end);
        const bool refused = result < 0 && result != -EAGAIN && result != -EINTR;
        if (!refused && batch.begin < batch.end) return batch.send(batch.opcode);
        if (refused) {
            queue_.refused(prepared ? "prepare tags" : "commit requests", -result);
            ended_ |= prepared;
        }
        batch.begin = 0;
        const std::size_t end = std::exchange(batch.end, 0);
        if (prepared && !refused) fetch();
        // The fetch has ended: nobody brings these back.
        if (ended_) retire(std::span(batch.elements).first(end));
        if (!prepared) free_.push_back(&batch);
        queue_.settled();
    }

    void retire(std::span<const std::byte> elements) noexcept {
        for (; !elements.empty(); elements = elements.subspan(element_bytes())) {
            const auto element = kernel::decode_batch_element(flags_, elements);
            Tag& tag = queue_.tags()[element->tag];
            // Those that the kernel took before the end are home already.
            if (tag.state() == TagState::with_kernel) queue_.retire(tag);
        }
    }

    // Its commit is not answered yet.
    [[nodiscard]] bool is_committing(const Tag& tag) const noexcept {
        for (const Batch& batch : commits_) {
            for (auto left = batch.left(); !left.empty(); left = left.subspan(element_bytes())) {
                if (kernel::decode_batch_element(flags_, left)->tag == tag.index()) return true;
            }
        }
        return false;
    }

    void fetch() noexcept {
        queue_.reactor().batch_fetch(queue_.file(), abi::u_io_fetch_io_cmds,
                                     kernel::make_batch_fetch(queue_.config().index), *group_,
                                     *this);
    }

    void deliver(std::uint16_t buffer, std::int32_t bytes) noexcept {
        const std::size_t count =
            bytes > 0 ? static_cast<std::size_t>(bytes) / sizeof(std::uint16_t) : 0;
        ASHLAR_ASSERT(count <= kTagsPerBuffer);
        queue_.reactor().add_brought(count);
        const std::uint16_t* tags = delivered_.data() + buffer * kTagsPerBuffer;
        for (std::size_t i = 0; i < count; ++i) {
            ASHLAR_ASSERT(tags[i] < queue_.config().depth);
            queue_.arrived(queue_.tags()[tags[i]]);
        }
    }

    Queue& queue_;
    std::uint16_t flags_ = 0;  // of every batch
    Batch prepare_;
    std::deque<Batch> commits_;  // never moves an element
    std::vector<Batch*> free_;
    Batch* current_ = nullptr;              // collects this round's results
    std::vector<std::uint16_t> delivered_;  // written by the kernel
    std::optional<std::uint16_t> group_;
    bool ended_ = false;  // the fetch will deliver nothing more
};

}  // namespace

Result<std::unique_ptr<Commands>> open_batch_commands(Queue& queue) {
    auto commands = std::make_unique<BatchCommands>(queue);
    if (auto opened = commands->open(); !opened) return std::unexpected(opened.error());
    return commands;
}

}  // namespace ashlar
