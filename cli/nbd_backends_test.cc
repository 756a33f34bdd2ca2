#include "cli/nbd_backends.h"

#include <gtest/gtest.h>
#include <algorithm>
#include <string>
#include <vector>

namespace ashlar::cli {
namespace {

using Words = std::vector<std::string>;

Spec spec_of(const std::string& text) { return parse_spec(text, grammar()).value(); }

std::string refusal(const std::string& text) {
    const auto open = prepare(spec_of(text), Written::as_spec);
    return open ? "accepted" : open.error();
}

bool has(const Words& words, const std::string& word) {
    return std::ranges::find(words, word) != words.end();
}

TEST(NbdBackends, ACommandBecomesTheUriOfItsSocket) {
    Spec spec{.type = "nbd", .command = {"nbdkit", "memory", "1G"}};
    EXPECT_EQ(program_of(spec), (Words{"nbdkit", "memory", "1G"}));
    serve_by_program(spec, "/run/a b&c.sock");
    EXPECT_EQ(spec.uri, "nbd+unix:///?socket=/run/a%20b%26c.sock");
    EXPECT_TRUE(program_of(spec).empty());
    EXPECT_EQ(spec_of(format_spec(spec)), spec);
}

TEST(NbdBackends, AUriNeedsNoProgram) {
    EXPECT_TRUE(program_of(spec_of("nbd:nbd://storage/disk")).empty());
    EXPECT_TRUE(program_of(spec_of("file:/data/a.img")).empty());
}

TEST(NbdBackends, AnImageIsServedByQemu) {
    Spec spec = spec_of("image:/data/-disk.vhd");
    const Words words = program_of(spec);
    EXPECT_EQ(words.front(), "qemu-nbd");
    EXPECT_EQ(words.back(), "/data/-disk.vhd");
    EXPECT_EQ(words[words.size() - 2], "--");
    EXPECT_TRUE(has(words, "vpc"));
    EXPECT_FALSE(has(words, "--read-only"));
    EXPECT_TRUE(has(program_of(spec_of("image:/data/a.qcow2,read-only")), "--read-only"));
    EXPECT_TRUE(has(program_of(spec_of("image:/data/a.qcow2,format=raw")), "raw"));
    serve_by_program(spec, "/run/x.sock");
    EXPECT_EQ(format_spec(spec), "image:/data/-disk.vhd,socket=/run/x.sock");
    EXPECT_TRUE(program_of(spec).empty());
}

TEST(NbdBackends, ConnectionsAreMadeAgainBySocketsAndKeys) {
    const auto paths = [](const std::string& text) { return paths_to_reopen(spec_of(text)); };
    EXPECT_EQ(paths("nbd:nbds+unix:///?socket=/srv/s&tls-psk-file=/k"), (Words{"/srv/s", "/k"}));
    EXPECT_EQ(paths("image:/data/a.qcow2,socket=/srv/s"), Words{"/srv/s"});
    EXPECT_EQ(paths("image:/data/a.qcow2"), Words{});
    EXPECT_EQ(paths("file:/data/a"), Words{}) << "its descriptor does";
    EXPECT_EQ(paths("mem:size=1G,memory-file=/data/m|log:/data/l"), Words{});
    EXPECT_EQ(paths("stripe:[nbd:nbd+unix:///?socket=/a],[linear:[file:/f],"
                    "[nbd:nbd+unix:///?socket=/b]]|delay:read=1ms"),
              (Words{"/a", "/b"}));
}

// What the disk's user writes could look like another format.
TEST(NbdBackends, TheFormatIsNeverGuessedFromTheContent) {
    EXPECT_EQ(refusal("image:/data/disk.qcow2"), "accepted");
    EXPECT_EQ(refusal("image:/data/disk,format=raw"), "accepted");
    EXPECT_EQ(refusal("image:/data/disk,socket=/run/x.sock"), "accepted");
    for (const char* const name : {"/data/disk", "/data/disk.img", "/data/qcow2"}) {
        EXPECT_NE(refusal(std::string("image:") + name).find("does not tell it; write qcow2"),
                  std::string::npos)
            << name;
    }
    EXPECT_NE(refusal("image:/data/a.qcow2,socket=x").find("write the whole path"),
              std::string::npos);
}

}  // namespace
}  // namespace ashlar::cli
