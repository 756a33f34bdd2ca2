#include "cli/state_text.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

TEST(StateText, WhatWasWrittenComesBack) {
    const ServerState state{.id = 3,
                            .identity = UINT64_MAX,
                            .pid = 4711,
                            .type = "mem",
                            .backend = "file:/\xc3\xa4\"\\,b,direct|delay:read=1ms",
                            .options = {{.key = "sqpoll"}, {.key = "depth", .value = "7"}},
                            .size = UINT64_MAX,
                            .store = "file 1:2",
                            .log_file = "/l",
                            .program = "/p",
                            .supervisor = 12,
                            .paused = true,
                            .declared_in = "/etc/ashlar/serve.toml",
                            .declared_as = "data",
                            .shared = true};
    const std::string text = format_state(state);
    EXPECT_EQ(text.find('\n'), text.size() - 1);
    const auto read = parse_state(3, text);
    ASSERT_TRUE(read);
    EXPECT_EQ(*read, state);
}

TEST(StateText, PathsNeedNotBeUtf8) {
    const ServerState state{.id = 0,
                            .identity = 5,
                            .pid = 17,
                            .type = "file",
                            .backend = "file:/data/d\xe9j\xe0",
                            .options = {{.key = "shared-memory", .value = "/dev/shm/\xff"}},
                            .log_file = "/var/log/\x80",
                            .declared_in = "/etc/\xc3"};
    const auto read = parse_state(0, format_state(state));
    ASSERT_TRUE(read);
    EXPECT_EQ(*read, state);
}

TEST(StateText, WhatOnlyRecoveryNeedsMayBeMissing) {
    const auto read =
        parse_state(0, R"({"version":2,"id":0,"identity":5,"pid":17,"type":"null","options":[]})");
    ASSERT_TRUE(read);
    EXPECT_EQ(read->type, "null");
    EXPECT_EQ(read->backend, "");
    EXPECT_EQ(read->supervisor, 0);
    EXPECT_FALSE(read->paused);
}

TEST(StateText, WhatMakesNoSenseIsNone) {
    for (const char* text : {"",
                             "{",
                             "[]",
                             "7",
                             "null",
                             R"({"version":2})",
                             R"({"version":2,"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":2,"options":[7],"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":2,"options":[[7]],"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":2,"options":[["a",[256]]],"identity":5,"pid":17,
                                "type":"mem"})",
                             R"({"version":9,"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":"2","options":[],"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":2,"options":[],"identity":-5,"pid":17,"type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"pid":"x","type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"pid":0,"type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"pid":4294967297,
                                "type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"pid":17,"supervisor":-1,
                                "type":"mem"})",
                             R"({"version":2,"options":[],"identity":5,"pid":17,"type":7})",
                             R"({"version":2,"options":[],"identity":5,"pid":17,"type":""})",
                             R"({"version":2,"options":[],"identity":5,"pid":17,"type":"a\nb"})"}) {
        EXPECT_FALSE(parse_state(0, text)) << text;
    }
}

}  // namespace
}  // namespace ashlar::cli
