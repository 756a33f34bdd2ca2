// The NBD backend with other people's servers: each serves a fresh disk, and the suite that every
// backend passes runs on it.
#include <gtest/gtest.h>
#include <chrono>
#include <string>
#include <vector>

#include <ashlar/nbd.h>

#include "conformance/backend_conformance.h"
#include "interop/served_disk.h"

namespace ashlar::test {
namespace {

using Program = ServedDisk::Program;
using Transport = ServedDisk::Transport;
using Security = ServedDisk::Security;

// How many sessions at once: as many as the server takes.
unsigned threads_of(const std::string& uri) {
    const auto disk = open_nbd({.uri = uri});
    return disk && (*disk)->sessions_max() == 1 ? 1 : 4;
}

class Conforms : public testing::TestWithParam<ServedDisk::Kind> {};

TEST_P(Conforms, ToTheSuite) {
    ServedDisk disk(GetParam());
    disk.start();
    const auto open = [&] {
        disk.start();
        return open_nbd({.uri = disk.uri()});
    };
    // By TCP, a server that sends in small pieces waits 40 ms for each.
    const unsigned operations = GetParam().transport == Transport::local ? 500 : 60;
    EXPECT_EQ(check_conformance(
                  {.open = open, .operations = operations, .threads = threads_of(disk.uri())}),
              "");
}

std::vector<ServedDisk::Kind> all_kinds() {
    std::vector<ServedDisk::Kind> kinds;
    for (const Program program : {Program::nbdkit_memory, Program::nbdkit_file, Program::qemu_raw,
                                  Program::qemu_qcow2, Program::nbd}) {
        for (const Transport transport : {Transport::local, Transport::tcp}) {
            kinds.push_back({.program = program, .transport = transport});
            kinds.push_back(
                {.program = program, .transport = transport, .security = Security::certificates});
        }
    }
    for (const Program program : {Program::nbdkit_memory, Program::qemu_raw}) {
        kinds.push_back({.program = program, .security = Security::psk});
    }
    return kinds;
}

INSTANTIATE_TEST_SUITE_P(Nbd, Conforms, testing::ValuesIn(all_kinds()),
                         [](const auto& kind) { return ServedDisk::name(kind.param); });

class NbdInterop : public testing::Test {
protected:
    NbdServer server;

    std::string conformance(const std::vector<std::string>& words) {
        const auto open = [&] {
            server.start_nbdkit(words);
            return open_nbd({.uri = server.uri()});
        };
        server.start_nbdkit(words);
        return check_conformance(
            {.open = open, .operations = 300, .threads = threads_of(server.uri())});
    }
};

// Without structured replies, and one connection only.
TEST_F(NbdInterop, PlainAndSimple) {
    EXPECT_EQ(
        conformance({"--no-sr", "--filter=multi-conn", "memory", "64M", "multi-conn-mode=disable"}),
        "");
}

TEST_F(NbdInterop, SmallRequestsOnly) {
    EXPECT_EQ(conformance({"--filter=blocksize-policy", "memory", "64M",
                           "blocksize-error-policy=error", "blocksize-minimum=4096",
                           "blocksize-preferred=4096", "blocksize-maximum=65536"}),
              "");
}

// What reads as zeroes is sent as data, and not as holes.
TEST_F(NbdInterop, NoExtents) {
    EXPECT_EQ(conformance({"--filter=noextents", "memory", "64M"}), "");
}

// Answers come late and in another order.
TEST_F(NbdInterop, Delayed) {
    EXPECT_EQ(conformance({"--filter=delay", "memory", "64M", "rdelay=2ms", "wdelay=1ms"}), "");
}

TEST_F(NbdInterop, ListsExportsOfQemu) {
    server.start({"qemu-nbd", "-t", "-f", "raw", "-r", "-x", "data", "-D", "a disk", "-k",
                  server.socket(), server.fresh_file(1 << 20)});
    const auto exports = list_nbd_exports(server.uri(), std::chrono::seconds(5));
    ASSERT_TRUE(exports) << exports.error().message();
    ASSERT_EQ(exports->size(), 1U);
    EXPECT_EQ(exports->front().name, "data");
    EXPECT_EQ(exports->front().description, "a disk");
    EXPECT_EQ(exports->front().size, 1U << 20);
    EXPECT_TRUE(exports->front().read_only);
}

TEST_F(NbdInterop, ListsExportsOfNbdkit) {
    server.start_nbdkit({"--filter=exportname", "memory", "3M", "exportname-list=explicit",
                         "exportname=one", "exportname=two", "exportdesc=fixed:a disk"});
    const auto exports = list_nbd_exports(server.uri(), std::chrono::seconds(5));
    ASSERT_TRUE(exports) << exports.error().message();
    ASSERT_EQ(exports->size(), 2U);
    EXPECT_EQ(exports->front().name, "one");
    EXPECT_EQ(exports->back().name, "two");
    for (const NbdExport& one : *exports) {
        EXPECT_EQ(one.description, "a disk");
        EXPECT_EQ(one.size, 3U << 20);
        EXPECT_FALSE(one.read_only);
    }
}

}  // namespace
}  // namespace ashlar::test
