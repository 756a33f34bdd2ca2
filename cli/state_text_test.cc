#include "cli/state_text.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

TEST(StateText, WhatWasWrittenComesBack) {
    const ServerState state{.id = 3,
                            .identity = UINT64_MAX,
                            .pid = 4711,
                            .type = "mem",
                            .backend = "file:/\xc3\xa4\"\\,b,direct|delay:read=1ms"};
    const std::string text = format_state(state);
    EXPECT_EQ(text.find('\n'), text.size() - 1);
    const auto read = parse_state(3, text);
    ASSERT_TRUE(read);
    EXPECT_EQ(read->id, state.id);
    EXPECT_EQ(read->identity, state.identity);
    EXPECT_EQ(read->pid, state.pid);
    EXPECT_EQ(read->type, state.type);
    EXPECT_EQ(read->backend, state.backend);
}

TEST(StateText, OlderFilesNameNoBackend) {
    const auto read = parse_state(0, R"({"version":1,"id":0,"identity":5,"pid":17,"type":"null"})");
    ASSERT_TRUE(read);
    EXPECT_EQ(read->type, "null");
    EXPECT_EQ(read->backend, "");
}

TEST(StateText, WhatMakesNoSenseIsNone) {
    for (const char* text : {"", "{", "[]", "7", "null", R"({"version":1})",
                             R"({"version":2,"identity":5,"pid":17,"type":"mem"})",
                             R"({"version":"1","identity":5,"pid":17,"type":"mem"})",
                             R"({"version":1,"identity":-5,"pid":17,"type":"mem"})",
                             R"({"version":1,"identity":5,"pid":"x","type":"mem"})",
                             R"({"version":1,"identity":5,"pid":17,"type":7})",
                             R"({"version":1,"identity":5,"pid":17,"type":""})",
                             R"({"version":1,"identity":5,"pid":17,"type":"a\nb"})"}) {
        EXPECT_FALSE(parse_state(0, text)) << text;
    }
}

}  // namespace
}  // namespace ashlar::cli
