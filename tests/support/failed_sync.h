// What the flushes of a disk answer when a sync of its file has failed.
#pragma once

#include <cerrno>
#include <cstddef>
#include <memory>

#include <gtest/gtest.h>

#include <ashlar/backend.h>

#include "core/io_scope.h"
#include "core/offload.h"
#include "support/fake_reactor.h"

namespace ashlar::test {

// Sessions on a ring whose syncs end as the test says.
class FailedSync {
public:
    // disk: a flush syncs one file, and does nothing else.
    void check(const std::shared_ptr<Backend>& disk) {
        auto first = disk->open_session(io_).value();
        auto second = disk->open_session(io_).value();
        const Request request{.op = Op::flush};
        // Both at once: the error is told to one of them only.
        const Task<> ours = first->serve(io_, request);
        const Task<> theirs = second->serve(io_, request);
        ASSERT_EQ(reactor_.pending().size(), 2U);
        EXPECT_NE(synced(0), synced(1)) << "one report for both";
        reactor_.complete(0, -EIO);
        reactor_.complete(0, 0);
        const Task<> later = first->serve(io_, request);
        ASSERT_TRUE(later.done()) << "the kernel would say that all is well";
        for (const Task<>* task : {&ours, &theirs, &later}) {
            EXPECT_EQ(task->result().error(), EIO) << "data was lost, and nobody is told";
        }
        first->close();
        second->close();
    }

private:
    [[nodiscard]] int synced(std::size_t place) const {
        const Submission& sync = *reactor_.pending().at(place).submission;
        EXPECT_EQ(sync.kind, Submission::Kind::fdatasync);
        return sync.fd;
    }

    FakeReactor reactor_;
    OffloadPool pool_;
    IoScope scope_{reactor_, pool_};
    alignas(std::max_align_t) std::byte frames_[16384];
    Arena arena_{frames_, sizeof(frames_)};
    Io io_{arena_, scope_};
};

}  // namespace ashlar::test
