// The NBD backend with other people's servers: each serves a fresh disk, and the suite that every
// backend passes runs on it.
#include <gtest/gtest.h>
#include <cerrno>
#include <fstream>

#include <ashlar/nbd.h>

#include "conformance/backend_conformance.h"
#include "interop/nbdkit.h"

namespace ashlar::test {
namespace {

class NbdInterop : public testing::Test {
protected:
    NbdServer server;

    // start: makes the server of a fresh disk.
    std::string conformance(const std::function<void()>& start, unsigned threads = 4) {
        const auto open = [&] {
            start();
            return open_nbd({.uri = server.uri()});
        };
        return check_conformance({.open = open, .operations = 500, .threads = threads});
    }
    std::string fresh_file(std::uintmax_t size) const {
        const std::string path = server.path("disk");
        std::filesystem::remove(path);
        std::ofstream(path).close();
        std::filesystem::resize_file(path, size);
        return path;
    }
};

TEST_F(NbdInterop, NbdkitMemory) {
    EXPECT_EQ(conformance([&] { server.start_nbdkit({"memory", "64M"}); }), "");
}

TEST_F(NbdInterop, NbdkitFile) {
    EXPECT_EQ(conformance([&] { server.start_nbdkit({"file", fresh_file(64 << 20)}); }), "");
}

// Without structured replies, and one connection only.
TEST_F(NbdInterop, NbdkitPlainAndSimple) {
    const auto start = [&] {
        server.start_nbdkit(
            {"--no-sr", "--filter=multi-conn", "memory", "64M", "multi-conn-mode=disable"});
    };
    EXPECT_EQ(conformance(start, 1), "");
}

TEST_F(NbdInterop, NbdkitWithSmallRequestsOnly) {
    const auto start = [&] {
        server.start_nbdkit({"--filter=blocksize-policy", "memory", "64M",
                             "blocksize-error-policy=error", "blocksize-minimum=512",
                             "blocksize-preferred=4096", "blocksize-maximum=65536"});
    };
    EXPECT_EQ(conformance(start), "");
}

TEST_F(NbdInterop, QemuRaw) {
    const auto start = [&] {
        server.start({"qemu-nbd", "-t", "-e", "0", "-f", "raw", "--discard=unmap", "-k",
                      server.socket(), fresh_file(64 << 20)});
    };
    EXPECT_EQ(conformance(start), "");
}

TEST_F(NbdInterop, QemuQcow2) {
    const auto start = [&] {
        const std::string path = server.path("disk.qcow2");
        std::filesystem::remove(path);
        {
            const ChildProcess image({"true"});
        }
        const std::string make = "qemu-img create -q -f qcow2 " + path + " 64M";
        ASSERT_EQ(std::system(make.c_str()), 0);
        server.start({"qemu-nbd", "-t", "-e", "0", "-f", "qcow2", "--discard=unmap", "-k",
                      server.socket(), path});
    };
    EXPECT_EQ(conformance(start), "");
}

TEST_F(NbdInterop, ListsExports) {
    server.start({"qemu-nbd", "-t", "-f", "raw", "-r", "-x", "data", "-D", "a disk", "-k",
                  server.socket(), fresh_file(1 << 20)});
    const auto exports = list_nbd_exports(server.uri(), std::chrono::seconds(5));
    ASSERT_TRUE(exports) << exports.error().message();
    ASSERT_EQ(exports->size(), 1U);
    EXPECT_EQ(exports->front().name, "data");
    EXPECT_EQ(exports->front().description, "a disk");
    EXPECT_EQ(exports->front().size, 1U << 20);
    EXPECT_TRUE(exports->front().read_only);
}

}  // namespace
}  // namespace ashlar::test
