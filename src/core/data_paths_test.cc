// How the data of reads and writes moves between the driver and a session, on every data path.
#include <fcntl.h>
#include <cerrno>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "support/queue_fixture.h"

namespace ashlar {
namespace {

namespace abi = kernel::abi;
using test::make_descriptor;
using Kind = test::FakeReactor::Kind;

constexpr std::uint32_t kFuaWrite = abi::io_op_write | abi::io_f_fua;

std::vector<std::byte> pattern(std::size_t length, int seed = 1) {
    std::vector<std::byte> bytes(length);
    for (std::size_t i = 0; i < length; ++i) {
        bytes[i] = static_cast<std::byte>(i * 7 + static_cast<std::size_t>(seed));
    }
    return bytes;
}

class DataPathTest : public test::QueueFixture {
protected:
    // The command that a tag has with the kernel, whatever it is.
    const test::FakeReactor::Pending& command_of(std::uint16_t tag) {
        const auto* command = reactor.find(config.index, tag);
        if (command == nullptr) throw std::runtime_error("nothing pending");
        return *command;
    }
    // The kernel answers that command.
    void answer(std::uint16_t tag, std::int32_t result) {
        if (!reactor.complete_tag(config.index, tag, result)) {
            throw std::runtime_error("nothing pending");
        }
    }
    // What a session has stored and what it gives.
    static auto store_to(std::vector<std::byte>& to) {
        return [&to](const Request& request) {
            if (request.op == Op::write) to.assign(request.bytes().begin(), request.bytes().end());
            return IoResult{};
        };
    }
    static auto give(const std::vector<std::byte>& from) {
        return [&from](const Request& request) {
            std::memcpy(request.buffer.data(), from.data(), request.length);
            return IoResult{};
        };
    }
    // A disk of memory that the session locates its bytes in.
    test::RecordingSession& start_holding() {
        config.access = DataAccess::holds;
        auto& session = start();
        session.place = [this](const Request& request) { return disk.data() + request.offset; };
        return session;
    }

    std::vector<std::byte> disk = std::vector<std::byte>(1 << 20);
};

// ---- User copy ---------------------------------------------------------------------------------

class UserCopyTest : public DataPathTest {
protected:
    UserCopyTest() { config.data_path = DataPath::user_copy; }
};

TEST_F(UserCopyTest, CommandsNameNoAddress) {
    start();
    for (std::uint16_t tag = 0; tag < 4; ++tag) EXPECT_EQ(command_of(tag).io.addr, 0U);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0);
    EXPECT_EQ(commit_of(0).io.addr, 0U);
    EXPECT_EQ(commit_of(0).registration, 0U);
}

TEST_F(UserCopyTest, WritesAreFetchedFromTheirPlace) {
    config.index = 2;
    auto& session = start();
    std::vector<std::byte> stored;
    session.answer = store_to(stored);
    const auto data = pattern(kIoMax);
    kernel.put_data(0, 3, pattern(kIoMax, 9));  // of another queue, and of another tag
    kernel.put_data(2, 2, pattern(kIoMax, 8));
    kernel.put_data(2, 3, data);
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_write, 0, kIoMax / 512)));
    EXPECT_EQ(stored, data);
    EXPECT_EQ(committed(3), int{kIoMax});
}

TEST_F(UserCopyTest, ReadsAreBroughtToTheirPlace) {
    config.index = 1;
    auto& session = start();
    const auto data = pattern(8192);
    session.answer = give(data);
    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_read, 0, 16)));
    EXPECT_EQ(committed(2), 8192);
    EXPECT_EQ(kernel.data(1, 2, 10'000), data);
    EXPECT_EQ(kernel.data(1, 1, 512), std::vector<std::byte>(512)) << "no other tag's";
}

TEST_F(UserCopyTest, ReadsOfSessionsThatTakeTheirTimeAreBroughtWhenTheyAreDone) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 1)));
    ASSERT_EQ(session.parked.size(), 1U);
    EXPECT_TRUE(kernel.data(0, 0, 512).empty());
    std::memset(session.parked[0].request.buffer.data(), 0x2a, 512);
    ASSERT_TRUE(session.resume(0, {}));
    EXPECT_EQ(kernel.data(0, 0, 512), std::vector<std::byte>(512, std::byte{0x2a}));
    EXPECT_EQ(committed(0), 512);
}

TEST_F(UserCopyTest, AFailedReadBringsNothing) {
    auto& session = start();
    session.answer = [](const Request&) { return IoResult::from_errno(EIO); };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), -EIO);
    EXPECT_TRUE(kernel.data(0, 0, 512).empty());
}

TEST_F(UserCopyTest, DataThatCannotBeFetchedFailsTheWriteBeforeTheSessionSeesIt) {
    auto& session = start();
    kernel.put_data(0, 0, pattern(4096 - 512));
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 8)), -EFAULT);
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(owner->counted().errors(), 1U);
    EXPECT_EQ(owner->counted()[Op::write].count, 1U);
}

TEST_F(UserCopyTest, DataThatCannotBeBroughtFailsTheRead) {
    const std::string path = "/proc/self/fd/" + std::to_string(kernel.device()->fd.get());
    Fd read_only(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    ASSERT_TRUE(read_only.valid());
    kernel.replace(std::make_shared<CharDevice>(std::move(read_only)));
    start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), -EBADF);
    EXPECT_EQ(owner->counted().errors(), 1U);
}

TEST_F(UserCopyTest, WhatTheSessionHoldsIsCopiedToAndFromThere) {
    auto& session = start_holding();
    const auto data = pattern(4096);
    kernel.put_data(0, 0, data);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 16, 8)), 4096);
    EXPECT_EQ(std::memcmp(disk.data() + 8192, data.data(), 4096), 0);
    EXPECT_EQ(std::count(disk.begin(), disk.end(), std::byte{0}) + 4096 - 16, 1 << 20);
    kernel.put_data(0, 0, {});
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 18, 4)), 2048);
    EXPECT_EQ(kernel.data(0, 0, 4096),
              std::vector<std::byte>(disk.begin() + 9216, disk.begin() + 11264));
    EXPECT_TRUE(session.requests.empty()) << "nothing was left to do";
    ASSERT_EQ(session.located.size(), 2U);
    EXPECT_EQ(session.located[0].op, Op::write);
    EXPECT_EQ(session.located[0].offset, 8192U);
    EXPECT_EQ(session.located[0].length, 4096U);
    EXPECT_EQ(owner->counted()[Op::write].bytes, 4096U);
    EXPECT_EQ(owner->counted()[Op::read].bytes, 2048U);
}

TEST_F(UserCopyTest, WhatTheSessionDoesNotLocateItServes) {
    auto& session = start_holding();
    session.place = nullptr;
    std::vector<std::byte> stored;
    session.answer = store_to(stored);
    kernel.put_data(0, 0, pattern(512));
    EXPECT_EQ(serve(make_descriptor(abi::io_op_write, 0, 1)), 512);
    EXPECT_EQ(stored, pattern(512));
    session.answer = give(disk);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 1)), 512);
    EXPECT_EQ(kernel.data(0, 0, 512), std::vector<std::byte>(512));
    EXPECT_EQ(session.requests.size(), 2U);
}

TEST_F(UserCopyTest, NobodyIsAskedToLocateWhoDoesNotHold) {
    auto& session = start();
    session.place = [this](const Request&) { return disk.data(); };
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
    EXPECT_TRUE(session.located.empty());
    EXPECT_EQ(session.requests.size(), 1U);
}

// ---- Get data ----------------------------------------------------------------------------------

class GetDataTest : public DataPathTest {
protected:
    GetDataTest() { config.data_path = DataPath::get_data; }
    // The kernel announces a write. Answers the address that its data is asked for at.
    std::byte* announce(std::uint16_t tag, const abi::IoDesc& descriptor) {
        kernel.put(config.index, tag, descriptor);
        answer(tag, abi::io_res_need_get_data);
        const auto& command = command_of(tag);
        EXPECT_EQ(command.opcode,
                  config.ioctl_commands ? abi::u_io_need_get_data : abi::io_need_get_data);
        return reinterpret_cast<std::byte*>(command.io.addr);
    }
};

TEST_F(GetDataTest, AWriteIsServedWhenItsDataIsThere) {
    auto& session = start();
    std::vector<std::byte> stored;
    session.answer = store_to(stored);
    std::byte* to = announce(1, make_descriptor(abi::io_op_write, 8, 8));
    EXPECT_TRUE(session.requests.empty());
    std::memset(to, 0x33, 4096);
    answer(1, abi::io_res_ok);
    ASSERT_EQ(session.requests.size(), 1U);
    EXPECT_EQ(session.requests[0].offset, 4096U);
    EXPECT_EQ(session.requests[0].buffer.data(), to);
    EXPECT_EQ(stored, std::vector<std::byte>(4096, std::byte{0x33}));
    EXPECT_EQ(committed(1), 4096);
    EXPECT_EQ(owner->counted()[Op::write].count, 1U) << "counted once";
}

TEST_F(GetDataTest, LegacyOpcodes) {
    config.ioctl_commands = false;
    start();
    announce(0, make_descriptor(abi::io_op_write, 0, 1));
    answer(0, abi::io_res_ok);
    EXPECT_EQ(committed(0), 512);
}

// The driver takes no commit of a request whose data it has announced.
TEST_F(GetDataTest, ARefusedWriteIsRefusedWhenItHasItsData) {
    config.capabilities.read_only = true;
    auto& session = start_holding();
    const auto buffer = command_of(0).io.addr;
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 3, 8)), 4096);
    kernel.put(0, 0, make_descriptor(abi::io_op_write, 0, 8));
    answer(0, abi::io_res_need_get_data);
    EXPECT_EQ(command_of(0).opcode, abi::u_io_need_get_data);
    EXPECT_EQ(command_of(0).io.addr, buffer) << "its data may not reach the disk";
    answer(0, abi::io_res_ok);
    EXPECT_EQ(committed(0), -EROFS);
    EXPECT_TRUE(session.requests.empty());
}

TEST_F(GetDataTest, TheKernelMayAskForTheCommandOnceMoreOrStop) {
    start();
    std::byte* to = announce(0, make_descriptor(abi::io_op_write, 0, 8));
    answer(0, -EAGAIN);
    EXPECT_EQ(command_of(0).opcode, abi::u_io_need_get_data);
    EXPECT_EQ(reinterpret_cast<std::byte*>(command_of(0).io.addr), to);
    bring_home();
    EXPECT_TRUE(queue->home());
    EXPECT_TRUE(owner->failures.empty());
}

TEST_F(GetDataTest, AWritesDataGoesWhereTheSessionKeepsIt) {
    auto& session = start_holding();
    std::byte* to = announce(2, make_descriptor(abi::io_op_write, 16, 8));
    EXPECT_EQ(to, disk.data() + 8192);
    answer(2, abi::io_res_ok);
    EXPECT_EQ(committed(2), 4096);
    EXPECT_TRUE(session.requests.empty()) << "it is where it belongs";
    EXPECT_EQ(owner->counted()[Op::write].count, 1U);
}

TEST_F(GetDataTest, AReadsCommitNamesWhereTheBytesLie) {
    auto& session = start_holding();
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 3, 8)));
    EXPECT_EQ(committed(1), 4096);
    EXPECT_EQ(reinterpret_cast<std::byte*>(commit_of(1).io.addr), disk.data() + 1536);
    EXPECT_TRUE(session.requests.empty());
    // Only of that one request.
    const auto buffer = command_of(0).io.addr;
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_flush)));
    EXPECT_EQ(commit_of(0).io.addr, buffer);
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_flush)));
    EXPECT_NE(reinterpret_cast<std::byte*>(commit_of(1).io.addr), disk.data() + 1536);
}

TEST_F(GetDataTest, WhatTheSessionDoesNotLocateItServesInTheTagsBuffer) {
    auto& session = start_holding();
    session.place = nullptr;
    session.answer = give(disk);
    const auto buffer = command_of(0).io.addr;
    EXPECT_EQ(serve(make_descriptor(abi::io_op_read, 0, 8)), 4096);
    EXPECT_EQ(commit_of(0).io.addr, buffer);
    EXPECT_EQ(announce(0, make_descriptor(abi::io_op_write, 0, 8)),
              reinterpret_cast<std::byte*>(buffer));
    answer(0, abi::io_res_ok);
    EXPECT_EQ(session.requests.size(), 2U);
}

// ---- Zero copy ---------------------------------------------------------------------------------

class ZeroCopyTest : public DataPathTest {
protected:
    ZeroCopyTest() {
        config.data_path = DataPath::zero_copy;
        config.access = DataAccess::routes;
        static_cast<void>(reactor.reserve_buffers(kFirst));  // somebody else's
    }
    // The tag's register command, which the kernel then answers.
    void register_buffer(std::uint16_t tag, std::int32_t result) {
        const auto& command = command_of(tag);
        EXPECT_EQ(command.opcode, abi::u_io_register_io_buf);
        EXPECT_EQ(command.io.addr, static_cast<std::uint64_t>(kFirst + tag));
        EXPECT_EQ(command.registration, 0U);
        answer(tag, result);
    }
    // Opcodes of what is submitted for a tag, in their order.
    std::vector<std::uint32_t> opcodes_of(std::uint16_t tag) {
        std::vector<std::uint32_t> opcodes;
        for (const auto& one : reactor.pending()) {
            if (one.io.tag == tag) opcodes.push_back(one.opcode);
        }
        return opcodes;
    }

    static constexpr std::uint16_t kFirst = 5;
};

TEST_F(ZeroCopyTest, CommandsSayHowToRegister) {
    start();
    EXPECT_EQ(reactor.buffers_reserved(), kFirst + 4);
    for (std::uint16_t tag = 0; tag < 4; ++tag) {
        EXPECT_EQ(command_of(tag).io.addr, 0U);
        // The index, and in the next byte that the request may come without.
        EXPECT_EQ(command_of(tag).registration, 0x1'0000U + kFirst + tag);
    }
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_read, 0, 8)));
    EXPECT_EQ(commit_of(1).registration, 0x1'0000U + kFirst + 1);
    EXPECT_EQ(commit_of(1).io.addr, 0U);
}

TEST_F(ZeroCopyTest, ARequestIsItsRegisteredBuffer) {
    auto& session = start();
    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_write, 8, 8)));
    ASSERT_EQ(session.requests.size(), 1U);
    const Buffer buffer = session.requests[0].buffer;
    ASSERT_FALSE(buffer.is_memory());
    EXPECT_EQ(buffer.index(), kFirst + 2);
    EXPECT_EQ(buffer.address(), 0U);
    EXPECT_EQ(buffer.length(), 4096U);
    EXPECT_EQ(committed(2), 4096);
    EXPECT_EQ(opcodes_of(2), std::vector{abi::u_io_commit_and_fetch_req})
        << "what the driver registered it takes back itself";
}

TEST_F(ZeroCopyTest, RequestsWithoutDataHaveNoBuffer) {
    auto& session = start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush | abi::io_f_need_reg_buf)), 0);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard | abi::io_f_need_reg_buf, 0, 8)), 0);
    ASSERT_EQ(session.requests.size(), 2U);
    for (const Request& request : session.requests) EXPECT_EQ(request.buffer.length(), 0U);
}

TEST_F(ZeroCopyTest, ARequestThatTheDriverCouldNotRegisterIsRegisteredByHand) {
    auto& session = start<test::ParkingSession>();
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_read | abi::io_f_need_reg_buf, 0, 8)));
    EXPECT_TRUE(session.parked.empty()) << "its buffer is not there yet";
    register_buffer(3, 0);
    ASSERT_EQ(session.parked.size(), 1U);
    EXPECT_EQ(session.parked[0].request.buffer.index(), kFirst + 3);
    EXPECT_TRUE(opcodes_of(3).empty());
    ASSERT_TRUE(session.resume(3, {}));
    EXPECT_EQ(opcodes_of(3),
              (std::vector{abi::u_io_unregister_io_buf, abi::u_io_commit_and_fetch_req}))
        << "let go of before the commit";
    EXPECT_EQ(reactor.find(Kind::silent_io_command)->io.addr, kFirst + 3U);
    EXPECT_EQ(committed(3), 4096);
    // The next one is the driver's again.
    reactor.drop_silent();
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_read, 0, 8)));
    ASSERT_TRUE(session.resume(3, {}));
    EXPECT_EQ(opcodes_of(3), std::vector{abi::u_io_commit_and_fetch_req});
}

TEST_F(ZeroCopyTest, ARegistrationThatFailsFailsTheRequest) {
    auto& session = start();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read | abi::io_f_need_reg_buf, 0, 8)));
    register_buffer(0, -EAGAIN);
    register_buffer(0, -EINTR);
    register_buffer(0, -ENOMEM);
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(opcodes_of(0), std::vector{abi::u_io_commit_and_fetch_req});
    EXPECT_EQ(committed(0), -ENOMEM);
    EXPECT_EQ(owner->counted().errors(), 1U);
    EXPECT_TRUE(owner->failures.empty());
}

TEST_F(ZeroCopyTest, ATagThatIsBeingRegisteredIsNotHome) {
    start();
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read | abi::io_f_need_reg_buf, 0, 8)));
    for (std::uint16_t tag = 1; tag < 4; ++tag) answer(tag, abi::io_res_abort);
    EXPECT_FALSE(queue->home());
    register_buffer(0, 0);
    EXPECT_FALSE(queue->home());
    reactor.drop_silent();
    answer(0, abi::io_res_abort);
    EXPECT_TRUE(queue->home());
}

TEST_F(ZeroCopyTest, ShortWritesComeToMemoryIfTheBackendSaysSo) {
    config.copied_write_max = 4096;
    auto& session = start();
    std::vector<std::byte> stored;
    session.answer = [&stored](const Request& request) {
        if (request.buffer.is_memory()) {
            stored.assign(request.bytes().begin(), request.bytes().end());
        }
        return IoResult{};
    };
    const auto data = pattern(8192);
    kernel.put_data(0, 1, pattern(8192, 5));  // of another tag
    kernel.put_data(0, 2, data);
    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_write | abi::io_f_need_reg_buf, 8, 8)));
    EXPECT_EQ(stored, std::vector(data.begin(), data.begin() + 4096));
    EXPECT_EQ(committed(2), 4096);
    EXPECT_EQ(opcodes_of(2), std::vector{abi::u_io_commit_and_fetch_req}) << "nothing registered";
    EXPECT_EQ(commit_of(2).io.addr, 0U);

    ASSERT_TRUE(deliver(2, make_descriptor(abi::io_op_write, 8, 16)));
    ASSERT_TRUE(deliver(3, make_descriptor(abi::io_op_read, 8, 8)));
    ASSERT_EQ(session.requests.size(), 3U);
    EXPECT_FALSE(session.requests[1].buffer.is_memory()) << "longer";
    EXPECT_FALSE(session.requests[2].buffer.is_memory()) << "a read";
    EXPECT_EQ(committed(2), 8192);
    EXPECT_EQ(committed(3), 4096);
}

TEST_F(ZeroCopyTest, AShortWriteThatCannotBeCopiedFails) {
    config.copied_write_max = 4096;
    auto& session = start();
    kernel.put_data(0, 1, pattern(512));
    ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_write, 0, 8)));
    EXPECT_TRUE(session.requests.empty());
    EXPECT_EQ(committed(1), -EFAULT);
}

TEST_F(ZeroCopyTest, ClosingGivesTheSlotsBack) {
    start();
    bring_home();
    queue.reset();
    EXPECT_EQ(reactor.buffers_reserved(), kFirst);
    EXPECT_EQ(reactor.files_registered(), 0);
}

TEST_F(ZeroCopyTest, WithoutSlotsTheQueueDoesNotOpen) {
    reactor.refuse_buffers(ENOSPC);
    auto opened =
        open(std::make_shared<test::SessionBackend>(std::make_unique<test::RecordingSession>()));
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, ENOSPC);
    EXPECT_EQ(reactor.buffers_reserved(), kFirst);
    EXPECT_EQ(reactor.files_registered(), 0);
    EXPECT_EQ(owner->closed, 1);
}

// ---- Zero copy by hand -------------------------------------------------------------------------

class ManualZeroCopyTest : public ZeroCopyTest {
protected:
    ManualZeroCopyTest() { config.data_path = DataPath::zero_copy_manual; }
};

TEST_F(ManualZeroCopyTest, EveryRequestIsRegisteredAndLetGo) {
    auto& session = start();
    for (std::size_t round = 0; round < 3; ++round) {
        EXPECT_EQ(command_of(1).registration, 0U);
        EXPECT_EQ(command_of(1).io.addr, 0U);
        ASSERT_TRUE(deliver(1, make_descriptor(abi::io_op_write, 8, 8)));
        register_buffer(1, 0);
        ASSERT_EQ(session.requests.size(), round + 1);
        EXPECT_EQ(session.requests.back().buffer.index(), kFirst + 1);
        EXPECT_EQ(opcodes_of(1),
                  (std::vector{abi::u_io_unregister_io_buf, abi::u_io_commit_and_fetch_req}));
        EXPECT_EQ(committed(1), 4096);
        reactor.drop_silent();
    }
}

TEST_F(ManualZeroCopyTest, AFailedRequestIsLetGoToo) {
    auto& session = start();
    session.answer = [](const Request&) { return IoResult::from_errno(EIO); };
    ASSERT_TRUE(deliver(0, make_descriptor(abi::io_op_read, 0, 8)));
    register_buffer(0, 0);
    EXPECT_EQ(opcodes_of(0),
              (std::vector{abi::u_io_unregister_io_buf, abi::u_io_commit_and_fetch_req}));
    EXPECT_EQ(committed(0), -EIO);
}

TEST_F(ManualZeroCopyTest, RequestsWithoutDataAreNotRegistered) {
    start();
    EXPECT_EQ(serve(make_descriptor(abi::io_op_flush)), 0);
    EXPECT_EQ(serve(make_descriptor(abi::io_op_discard, 0, 8)), 0);
}

// ---- Several threads per queue -----------------------------------------------------------------

TEST_F(ZeroCopyTest, AThreadHasItsPartOfTheTags) {
    config.depth = 8;
    config.first_tag = 1;
    config.tag_step = 3;
    auto& session = start();
    const std::map<std::uint16_t, std::uint16_t> registered = {{1, 5}, {4, 6}, {7, 7}};
    ASSERT_EQ(reactor.pending().size(), 3U);
    for (const auto& [tag, index] : registered) {
        ASSERT_NE(reactor.find(0, tag), nullptr) << tag;
        EXPECT_EQ(command_of(tag).registration & 0xffff, index);
        // Its descriptor lies where the whole queue's order puts it.
        ASSERT_TRUE(deliver(tag, make_descriptor(abi::io_op_read, tag, 1)));
        EXPECT_EQ(session.requests.back().offset, tag * 512U);
        EXPECT_EQ(session.requests.back().tag, tag);
        EXPECT_EQ(session.requests.back().buffer.index(), index);
        EXPECT_EQ(committed(tag), 512);
    }
    for (const auto& [tag, index] : registered) {
        EXPECT_FALSE(queue->home());
        answer(tag, abi::io_res_abort);
    }
    EXPECT_TRUE(queue->home());
    queue.reset();
    EXPECT_EQ(reactor.buffers_reserved(), kFirst);
}

TEST_F(DataPathTest, PartsOfAQueueCoverIt) {
    for (std::uint16_t depth = 1; depth < 40; ++depth) {
        for (std::uint16_t step = 1; step <= depth; ++step) {
            unsigned tags = 0;
            for (std::uint16_t first = 0; first < step; ++first) {
                config.depth = depth;
                config.first_tag = first;
                config.tag_step = step;
                tags += config.tags();
                EXPECT_LT(first + (config.tags() - 1) * step, depth);
            }
            EXPECT_EQ(tags, depth) << step;
        }
    }
}

TEST_F(DataPathTest, BuffersOfAPartAreApart) {
    config.depth = 7;
    config.first_tag = 2;
    config.tag_step = 2;
    start();
    std::vector<std::uint64_t> addresses;
    for (const auto& one : reactor.pending()) addresses.push_back(one.io.addr);
    ASSERT_EQ(addresses.size(), 3U);
    for (const std::uint64_t address : addresses) {
        std::memset(reinterpret_cast<void*>(address), static_cast<int>(address >> 16), kIoMax);
    }
    for (const std::uint64_t address : addresses) {
        const auto* bytes = reinterpret_cast<const std::byte*>(address);
        EXPECT_EQ(bytes[0], static_cast<std::byte>(address >> 16));
        EXPECT_EQ(bytes[kIoMax - 1], static_cast<std::byte>(address >> 16));
    }
}

// ---- FUA is emulated on every path -------------------------------------------------------------

class FuaTest : public DataPathTest, public testing::WithParamInterface<DataPath> {
protected:
    FuaTest() {
        config.data_path = GetParam();
        config.capabilities.fua = false;
        if (config.zero_copy()) config.access = DataAccess::routes;
    }
    // The kernel delivers a FUA write of eight sectors to tag 0, by the path's own steps.
    void deliver_write() {
        kernel.put(0, 0, make_descriptor(kFuaWrite, 0, 8));
        switch (GetParam()) {
            case DataPath::get_data:
                answer(0, abi::io_res_need_get_data);
                return answer(0, abi::io_res_ok);
            case DataPath::user_copy: kernel.put_data(0, 0, pattern(4096)); break;
            case DataPath::zero_copy_manual: answer(0, abi::io_res_ok); break;
            default: break;
        }
        answer(0, abi::io_res_ok);
    }
};

TEST_P(FuaTest, ByAFlushAfterTheWrite) {
    auto& session = start<test::ParkingSession>();
    deliver_write();
    ASSERT_EQ(session.parked.size(), 1U);
    EXPECT_EQ(session.parked[0].request.op, Op::write);
    EXPECT_FALSE(session.parked[0].request.fua) << "not the session's business";
    ASSERT_TRUE(session.resume(0, {}));
    ASSERT_EQ(session.parked.size(), 1U) << "not durable yet";
    EXPECT_EQ(session.parked[0].request.op, Op::flush);
    EXPECT_EQ(session.parked[0].request.buffer.length(), 0U);
    EXPECT_EQ(reactor.find(0, 0), nullptr);
    EXPECT_EQ(reactor.find(Kind::silent_io_command), nullptr) << "still registered";
    ASSERT_TRUE(session.resume(0, {}));
    EXPECT_EQ(committed(0), 4096);
    EXPECT_EQ(owner->counted()[Op::write].count, 1U);
    EXPECT_EQ(owner->counted()[Op::flush].count, 0U);
}

TEST_P(FuaTest, AFlushThatFailsFailsTheWrite) {
    auto& session = start();
    session.answer = [](const Request& request) {
        return request.op == Op::flush ? IoResult::from_errno(ENOSPC) : IoResult{};
    };
    deliver_write();
    EXPECT_EQ(committed(0), -ENOSPC);
}

INSTANTIATE_TEST_SUITE_P(EveryPath, FuaTest,
                         testing::Values(DataPath::copy, DataPath::user_copy, DataPath::get_data,
                                         DataPath::zero_copy, DataPath::zero_copy_manual),
                         [](const auto& path) {
                             std::string text(name(path.param));
                             std::erase(text, '-');
                             return text;
                         });

// What the engine copied there itself the session has not made durable, whatever it can.
class LocatedFuaTest : public DataPathTest, public testing::WithParamInterface<bool> {};

TEST_P(LocatedFuaTest, WritesThatTheSessionNeverSeesAreFlushed) {
    config.data_path = DataPath::user_copy;
    config.capabilities.fua = GetParam();
    auto& session = start_holding();
    kernel.put_data(0, 0, pattern(4096));
    EXPECT_EQ(serve(make_descriptor(kFuaWrite, 0, 8)), 4096);
    ASSERT_EQ(session.requests.size(), 1U);
    EXPECT_EQ(session.requests[0].op, Op::flush);
    EXPECT_EQ(disk[1], pattern(2)[1]);
}

INSTANTIATE_TEST_SUITE_P(WithAndWithoutItsOwn, LocatedFuaTest, testing::Bool());

}  // namespace
}  // namespace ashlar
