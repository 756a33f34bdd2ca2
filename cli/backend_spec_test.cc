#include "cli/backend_spec.h"

#include <array>

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

constexpr std::array kMemOptions = {OptionInfo{"size", "SIZE", "", true},
                                    OptionInfo{"huge", "", ""}};
constexpr std::array kFileOptions = {OptionInfo{"offset", "SIZE", ""},
                                     OptionInfo{"direct", "", ""}};
constexpr std::array kLagOptions = {OptionInfo{"read", "TIME", ""}, OptionInfo{"all", "", ""}};
constexpr TypeInfo kMem{.name = "mem", .help = "", .options = kMemOptions};
constexpr TypeInfo kFile{
    .name = "file", .help = "", .argument = Argument::path, .options = kFileOptions};
constexpr TypeInfo kSet{
    .name = "set", .help = "", .argument = Argument::members, .options = kFileOptions};
constexpr TypeInfo kRow{.name = "row", .help = "", .argument = Argument::members};
constexpr TypeInfo kLag{.name = "lag", .help = "", .options = kLagOptions};
constexpr std::array kTraceOptions = {
    OptionInfo{.key = "new", .value = "", .help = "", .makes = true}, OptionInfo{"all", "", ""}};
constexpr TypeInfo kTrace{
    .name = "trace", .help = "", .argument = Argument::path, .options = kTraceOptions};
constexpr TypeInfo kBare{.name = "bare", .help = ""};

const Grammar kGrammar{.backends = {&kMem, &kFile, &kSet, &kRow},
                       .layers = {&kLag, &kTrace, &kBare}};

Spec parsed(std::string_view text) {
    const auto spec = parse_spec(text, kGrammar);
    EXPECT_TRUE(spec) << text << ": " << spec.error();
    return spec ? *spec : Spec{};
}

std::string refused(std::string_view text) {
    const auto spec = parse_spec(text, kGrammar);
    return spec ? "accepted as " + format_spec(*spec) : spec.error();
}

const Spec kSmallMem{.type = "mem", .options = {{"size", "1G"}}};

TEST(ParseSpec, TypesArgumentsAndOptions) {
    EXPECT_EQ(parsed("mem:size=1G"), kSmallMem);
    EXPECT_EQ(parsed("mem:huge,size=1G"),
              (Spec{.type = "mem", .options = {{"huge", std::nullopt}, {"size", "1G"}}}));
    EXPECT_EQ(parsed("file:/data/a.img"), (Spec{.type = "file", .path = "/data/a.img"}));
    EXPECT_EQ(
        parsed("file:a,direct,offset=1M"),
        (Spec{
            .type = "file", .path = "a", .options = {{"direct", std::nullopt}, {"offset", "1M"}}}));
}

TEST(ParseSpec, APathMayLookLikeAnythingElse) {
    EXPECT_EQ(parsed("file:direct").path, "direct");
    EXPECT_EQ(parsed("file:size=1G:b [c]").path, "size=1G:b [c]");
    EXPECT_EQ(parsed("file:/a]").path, "/a]");
    EXPECT_EQ(parsed("file:[/a").path, "[/a");
}

TEST(ParseSpec, AValueMayHoldAnEqualsSignOrBeEmpty) {
    EXPECT_EQ(parsed("mem:size=a=b").options.front().value, "a=b");
    EXPECT_EQ(parsed("mem:size=").options.front().value, "");
}

TEST(ParseSpec, Escapes) {
    EXPECT_EQ(parsed(R"(file:/a\,b\|c\\d\[e\]f,direct)").path, R"(/a,b|c\d[e]f)");
    EXPECT_EQ(parsed(R"(file:/a\x0a\xFF)").path, "/a\n\xff");
    EXPECT_EQ(parsed(R"(mem:size=1\,5)").options.front().value, "1,5");
}

TEST(ParseSpec, LayersFollowPipes) {
    const Spec spec = parsed("mem:size=1G|lag:read=1ms,all|bare");
    const std::vector<Spec> layers = {
        {.type = "lag", .options = {{"read", "1ms"}, {"all", std::nullopt}}}, {.type = "bare"}};
    EXPECT_EQ(spec.options, kSmallMem.options);
    EXPECT_EQ(spec.layers, layers);
    EXPECT_EQ(parse_layers("lag:read=1ms,all|bare", kGrammar), layers);
}

TEST(ParseSpec, MembersStandInBrackets) {
    const Spec spec =
        parsed(R"(set:[mem:size=1G|lag],[row:[file:/a\]b,direct],[file:c]],direct|bare)");
    EXPECT_EQ(
        spec,
        (Spec{.type = "set",
              .members = {{.type = "mem", .options = {{"size", "1G"}}, .layers = {{.type = "lag"}}},
                          {.type = "row",
                           .members = {{.type = "file",
                                        .path = "/a]b",
                                        .options = {{"direct", std::nullopt}}},
                                       {.type = "file", .path = "c"}}}},
              .options = {{"direct", std::nullopt}},
              .layers = {{.type = "bare"}}}));
}

TEST(ParseSpec, SaysWhichTypesThereAre) {
    EXPECT_EQ(refused("floppy:a"), "'floppy' is no backend; known are mem, file, set, row");
    EXPECT_EQ(refused(""), "a backend is missing; known are mem, file, set, row");
    EXPECT_EQ(refused(":size=1G"), "a backend is missing; known are mem, file, set, row");
    EXPECT_EQ(refused("lag"), "'lag' is no backend; known are mem, file, set, row");
    EXPECT_EQ(refused("MEM:size=1G"), "'MEM' is no backend; known are mem, file, set, row");
    EXPECT_EQ(refused("/data/a.img,direct"),
              "'/data/a.img' is no backend; known are mem, file, set, row; a file is "
              "file:/data/a.img");
    EXPECT_EQ(refused("mem:size=1G|mem:size=1G"), "'mem' is no layer; known are lag, trace, bare");
    EXPECT_EQ(refused("mem:size=1G|"), "a layer is missing; known are lag, trace, bare");
    EXPECT_EQ(refused("mem:size=1G||bare"), "a layer is missing; known are lag, trace, bare");
}

TEST(ParseSpec, SaysWhichOptionsThereAre) {
    EXPECT_EQ(refused("file:/a,ofset=1M"),
              "file: 'ofset' is no option; allowed are offset=SIZE, direct");
    EXPECT_EQ(
        refused("mem:"),
        "mem: an option is missing after ':', ',' or before '='; allowed are size=SIZE, huge");
    EXPECT_EQ(
        refused("mem:size=1G,"),
        "mem: an option is missing after ':', ',' or before '='; allowed are size=SIZE, huge");
    EXPECT_EQ(
        refused("mem:=1G"),
        "mem: an option is missing after ':', ',' or before '='; allowed are size=SIZE, huge");
    EXPECT_EQ(refused("mem:size=1G|bare:now"), "bare: 'now' is no option; allowed are none");
    EXPECT_EQ(refused("file:/a,direct=yes"), "file: direct takes no value; write direct");
    EXPECT_EQ(refused("file:/a,offset"), "file: offset needs a value; write offset=SIZE");
    EXPECT_EQ(refused("file:/a,direct,direct"), "file: direct is given twice; give it once");
    EXPECT_EQ(refused("mem:size=1,size=1"), "mem: size is given twice; give it once");
}

TEST(ParseSpec, SaysWhatIsMissing) {
    EXPECT_EQ(refused("mem"), "mem needs size; write mem:size=SIZE");
    EXPECT_EQ(refused("mem:huge"), "mem needs size; write mem:size=SIZE");
    EXPECT_EQ(refused("file"), "file needs a path; write file:PATH");
    EXPECT_EQ(refused("file:"), "file needs a path; write file:PATH");
    EXPECT_EQ(refused("file:,direct"), "file needs a path; write file:PATH");
    EXPECT_EQ(refused("row"), "row needs members; write row:[SPEC],[SPEC]");
    EXPECT_EQ(refused("set:direct"), "set needs members; write set:[SPEC],[SPEC]");
}

TEST(ParseSpec, RefusesWhatIsLeftOver) {
    constexpr std::string_view why =
        " is not expected here; write ',' before an option, '|' before a layer";
    EXPECT_EQ(refused("row:[file:a]x"), "row: 'x'" + std::string(why));
    EXPECT_EQ(refused("row:[file:a]]"), "row: ']'" + std::string(why));
    EXPECT_EQ(refused("mem\\x"), "mem: '\\x'" + std::string(why));
    EXPECT_EQ(refused("row:[file:a"), "row: a ']' is missing at the end");
    EXPECT_EQ(refused("row:[file:a,direct"), "row: a ']' is missing at the end");
    EXPECT_EQ(refused("row:file:a"), "row: 'file:a' is no option; allowed are none");
}

TEST(ParseSpec, RefusesUnknownEscapes) {
    constexpr std::string_view why =
        " stands for nothing; a backslash is written \\\\, and before , | [ or ] it takes their "
        "meaning away";
    EXPECT_EQ(refused("file:/a\\qb"), "'\\q'" + std::string(why));
    EXPECT_EQ(refused("file:/a\\"), "'\\'" + std::string(why));
    EXPECT_EQ(refused("file:/a\\x1"), "'\\x'" + std::string(why));
    EXPECT_EQ(refused("file:/a\\x1g"), "'\\x'" + std::string(why));
    EXPECT_EQ(refused("file:/a\\x00b"), "'\\x'" + std::string(why));
}

TEST(ParseSpec, RefusesZeroBytes) {
    using std::string_view_literals::operator""sv;
    EXPECT_EQ(refused("file:/a\0b"sv), "a spec holds no byte of value zero");
    EXPECT_EQ(refused("mem:size=\0"sv), "a spec holds no byte of value zero");
}

TEST(ParseSpec, BracketsAreBounded) {
    const auto nested = [](unsigned depth) {
        std::string text;
        for (unsigned i = 0; i < depth; ++i) text += "row:[";
        return text + "file:a" + std::string(depth, ']');
    };
    EXPECT_EQ(format_spec(parsed(nested(8))), nested(8));
    EXPECT_EQ(refused(nested(9)), "row: more than 8 brackets in each other");
    EXPECT_EQ(refused(nested(100'000)), "row: more than 8 brackets in each other");
}

TEST(FormatSpec, WhatWasParsedComesBack) {
    for (const char* text :
         {"mem:size=1G", "mem:huge,size=1G", "file:/data/a.img,direct,offset=1M",
          "mem:size=1G|lag:read=1ms,all|bare", "set:[file:/a],[mem:size=1|bare],direct|bare",
          R"(row:[row:[file:/a\]b],[file:c]],[file:d])", R"(file:/a\,b\|c\\d[e]f)"}) {
        EXPECT_EQ(format_spec(parsed(text)), text);
    }
}

TEST(FormatSpec, IsPrintableWhateverThePath) {
    const auto written = [](std::string path) {
        return format_spec({.type = "file", .path = std::move(path)});
    };
    EXPECT_EQ(written("/\xc3\xa4/\xe2\x82\xac/\xf0\x9f\x92\xbe"),
              "file:/\xc3\xa4/\xe2\x82\xac/\xf0\x9f\x92\xbe");
    EXPECT_EQ(written("/a\nb\x1b[1m\x7f"), R"(file:/a\x0ab\x1b[1m\x7f)");
    // Not UTF-8: a lone byte, a sequence cut short, one longer than need be, half of a pair, and
    // one past the last character.
    EXPECT_EQ(written("/\xff"), R"(file:/\xff)");
    EXPECT_EQ(written("/\xc3"), R"(file:/\xc3)");
    EXPECT_EQ(written("/\xe2\x82x"), R"(file:/\xe2\x82x)");
    EXPECT_EQ(written("/\xc0\xaf"), R"(file:/\xc0\xaf)");
    EXPECT_EQ(written("/\xe0\x80\xaf"), R"(file:/\xe0\x80\xaf)");
    EXPECT_EQ(written("/\xed\xa0\x80"), R"(file:/\xed\xa0\x80)");
    EXPECT_EQ(written("/\xf0\x80\x80\x80"), R"(file:/\xf0\x80\x80\x80)");
    EXPECT_EQ(written("/\xf4\x90\x80\x80"), R"(file:/\xf4\x90\x80\x80)");
    EXPECT_EQ(written("/\xf5\x80\x80\x80"), R"(file:/\xf5\x80\x80\x80)");
    std::string every;
    for (int byte = 1; byte < 256; ++byte) every += static_cast<char>(byte);
    EXPECT_EQ(parsed(written(every)).path, every);
}

TEST(MakePathsAbsolute, OnlyThoseThatAreNot) {
    Spec spec = parsed("set:[file:a.img],[file:/b.img],[row:[file:../c],[mem:size=1]]");
    make_paths_absolute(spec, "/data/x");
    EXPECT_EQ(format_spec(spec),
              "set:[file:/data/x/a.img],[file:/b.img],[row:[file:/data/x/../c],[mem:size=1]]");
    EXPECT_FALSE(has_relative_path(spec));
    Spec layered = parsed("row:[mem:size=1|trace:a|trace:/b]|trace:c");
    EXPECT_TRUE(has_relative_path(layered));
    make_paths_absolute(layered, "/data");
    EXPECT_EQ(format_spec(layered), "row:[mem:size=1|trace:/data/a|trace:/b]|trace:/data/c");
    EXPECT_FALSE(has_relative_path(layered));
    Spec remote{.type = "set", .members = {{.type = "nbd", .uri = "nbd+unix:///?socket=s"}}};
    EXPECT_TRUE(has_relative_path(remote));
    make_paths_absolute(remote, "/data");
    EXPECT_EQ(remote.members[0].uri, "nbd+unix:///?socket=/data/s");
    EXPECT_FALSE(has_relative_path(remote));
    Spec in_root = parsed("file:a");
    make_paths_absolute(in_root, "/");
    EXPECT_EQ(in_root.path, "/a");
}

TEST(SpecToReopen, LayersAreNotMadeOnceMoreEither) {
    const Spec spec = parsed("row:[mem:size=1|trace:/a,new,all]|bare|trace:/b,new");
    EXPECT_EQ(format_spec(spec_to_reopen(spec, kGrammar)),
              "row:[mem:size=1|trace:/a,all]|bare|trace:/b");
}

}  // namespace
}  // namespace ashlar::cli
