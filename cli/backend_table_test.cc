#include "cli/backend_table.h"

#include <unistd.h>
#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

const Report kUnheard = [](Level, const std::string&) {};

Parsed<OpenBackend> prepared(const std::string& text, Written written = Written::as_spec) {
    const auto spec = parse_spec(text, grammar());
    if (!spec) return std::unexpected(spec.error());
    return prepare(*spec, written);
}

std::string refused(const std::string& text, Written written = Written::as_spec) {
    const auto open = prepared(text, written);
    return open ? "accepted" : open.error();
}

std::shared_ptr<Backend> opened(const std::string& text) {
    const auto open = prepared(text);
    EXPECT_TRUE(open) << text << ": " << open.error();
    if (!open) return nullptr;
    auto backend = (*open)(kUnheard);
    EXPECT_TRUE(backend) << text << ": " << backend.error().message();
    return backend ? *backend : nullptr;
}

// A directory of its own for each test, gone afterwards.
class BackendTable : public testing::Test {
protected:
    void SetUp() override {
        std::string pattern = testing::TempDir() + "ashlar-cli-XXXXXX";
        ASSERT_NE(mkdtemp(pattern.data()), nullptr);
        directory_ = pattern;
    }
    void TearDown() override {
        std::error_code none;
        std::filesystem::remove_all(directory_, none);
    }
    std::string file(const std::string& name, std::uint64_t size) {
        const std::string path = directory_ + "/" + name;
        std::ofstream{path};
        std::filesystem::resize_file(path, size);
        return path;
    }
    const std::string& directory() const { return directory_; }

private:
    std::string directory_;
};

// For each kind of value, one that every option of that kind takes.
const std::map<std::string_view, std::string> kValues = {{"SIZE", "4K"},
                                                         {"LATENCY", "normal/1ms/10us"},
                                                         {"N", "7"},
                                                         {"OP+OP", "read+write"},
                                                         {"OFFSET+LENGTH", "4K+4K"},
                                                         {"0..1", "0.5"},
                                                         {"NAME", "ENOSPC"},
                                                         {"TIME", "5s"},
                                                         {"SECONDS", "5"},
                                                         {"FORMAT", "vmdk"},
                                                         {"PATH", "/dev/shm/disk"}};

// "TYPE:..." with what the type cannot be without, besides this option.
std::string spec_with(const TypeInfo& type, const OptionInfo& option) {
    std::vector<std::string> parts;
    if (type.argument == Argument::path) parts.push_back("/data/a.img");
    if (type.argument == Argument::uri) parts.push_back("nbd://storage/disk");
    if (type.argument == Argument::members) parts.assign(type.members_least, "[mem:size=1M]");
    const auto write = [](const OptionInfo& one) {
        const std::string key(one.key);
        return one.value.empty() ? key : key + "=" + kValues.at(one.value);
    };
    parts.push_back(write(option));
    for (const OptionInfo& other : type.options) {
        if (other.required && other.key != option.key) parts.push_back(write(other));
    }
    // Options that need another one.
    const std::map<std::string_view, std::string> company = {
        {"file size", "create"},
        {"file create", "size=4K"},
        {"fault ops", "error"},
        {"fault range", "error"},
        {"fault rate", "error"},
        {"fault errno", "error"},
        {"fault after", "error"},
        {"fault seed", "error"},
        {"delay seed", "read=1ms"},
        {"image read-only", "format=raw"},
        {"zoned create", "state=/data/zones"},
        {"metadata path", "crc16"},
        {"metadata create", "crc16,path=/data/meta"}};
    const auto with = company.find(std::string(type.name) + " " + std::string(option.key));
    if (with != company.end()) parts.push_back(with->second);
    std::string text(type.name);
    for (std::size_t i = 0; i < parts.size(); ++i) text += (i == 0 ? ":" : ",") + parts[i];
    return text;
}

TEST_F(BackendTable, EveryOptionOfEveryEntryIsAccepted) {
    for (const BackendEntry& entry : backend_entries()) {
        for (const OptionInfo& option : entry.info.options) {
            const std::string text = spec_with(entry.info, option);
            EXPECT_EQ(refused(text), "accepted") << text;
        }
    }
    for (const BackendEntry& entry : layer_entries()) {
        for (const OptionInfo& option : entry.info.options) {
            const std::string text = "mem:size=1M|" + spec_with(entry.info, option);
            EXPECT_EQ(refused(text), "accepted") << text;
        }
    }
}

TEST_F(BackendTable, ValuesThatMakeNoSenseAreRefusedForEveryOption) {
    const auto check = [](const std::string& below, const BackendEntry& entry) {
        for (const OptionInfo& option : entry.info.options) {
            if (option.value.empty()) continue;
            std::string text = spec_with(entry.info, option);
            const std::string given = std::string(option.key) + "=" + kValues.at(option.value);
            text.replace(text.find(given), given.size(), std::string(option.key) + "=?");
            const std::string complaint = refused(below + text);
            EXPECT_NE(complaint.find("'?'"), std::string::npos) << text << ": " << complaint;
            EXPECT_TRUE(complaint.starts_with(std::string(entry.info.name) + ": " +
                                              std::string(option.key)))
                << complaint;
        }
    };
    for (const BackendEntry& entry : backend_entries()) check("", entry);
    for (const BackendEntry& entry : layer_entries()) check("mem:size=1M|", entry);
}

TEST_F(BackendTable, UnknownKeysAreRefusedWithTheListOfThoseAllowed) {
    EXPECT_EQ(refused("mem:size=1M,hugepage"),
              "mem: 'hugepage' is no option; allowed are size=SIZE, hugepages, memory-file=PATH, "
              "block-size=SIZE, physical-block-size=SIZE");
    EXPECT_EQ(refused("null|delay:sync=1ms"),
              "delay: 'sync' is no option; allowed are read=LATENCY, write=LATENCY, "
              "flush=LATENCY, discard=LATENCY, write-zeroes=LATENCY, seed=N");
    EXPECT_EQ(refused("floppy"),
              "'floppy' is no backend; known are mem, null, file, nbd, image, stripe, linear, "
              "zoned");
    EXPECT_EQ(refused("null|slow"), "'slow' is no layer; known are delay, fault, log, metadata");
}

TEST_F(BackendTable, EntriesAreDescribed) {
    std::set<std::string_view> names;
    const auto check = [&](const BackendEntry& entry) {
        EXPECT_TRUE(names.insert(entry.info.name).second) << entry.info.name;
        EXPECT_FALSE(entry.info.help.empty());
        EXPECT_FALSE(entry.info.examples.empty());
        EXPECT_EQ(entry.info.argument == Argument::none, entry.info.argument_help.empty());
        std::set<std::string_view> keys;
        for (const OptionInfo& option : entry.info.options) {
            EXPECT_TRUE(keys.insert(option.key).second) << option.key;
            EXPECT_FALSE(option.help.empty()) << option.key;
        }
    };
    std::ranges::for_each(backend_entries(), check);
    std::ranges::for_each(layer_entries(), check);
}

TEST_F(BackendTable, ZonesOfAFileLieBesideIt) {
    const std::string path = file("disk", 4 << 20);
    const std::string text = "zoned:[file:" + path + "],zone-size=1M";
    const auto missing = (*prepared(text))(kUnheard);
    ASSERT_FALSE(missing);
    EXPECT_EQ(missing.error().code, ENOENT);
    EXPECT_EQ(opened(text + ",create")->geometry().zones.size, 1U << 20);
    EXPECT_TRUE(std::filesystem::exists(path + ".zones"));
    EXPECT_NE(opened(text), nullptr);
}

TEST_F(BackendTable, WhatGoesWithItsServer) {
    const auto option = [](const std::string& text) {
        return std::string(memory_option(*parse_spec(text, grammar())));
    };
    const auto any = [](const std::string& text) {
        return has_memory_of_its_own(*parse_spec(text, grammar()));
    };
    EXPECT_EQ(option("mem:size=1M"), "memory-file");
    EXPECT_EQ(option("mem:size=1M,memory-file=/dev/shm/a"), "");
    EXPECT_EQ(option("zoned:[mem:size=1M]"), "state");
    EXPECT_EQ(option("zoned:[mem:size=1M],state=/data/zones"), "");
    EXPECT_EQ(option("zoned:[file:/data/a]"), "");
    EXPECT_TRUE(any("zoned:[mem:size=1M],state=/data/zones"));
    EXPECT_FALSE(any("zoned:[mem:size=1M,memory-file=/dev/shm/a],state=/data/zones"));
    EXPECT_TRUE(any("file:/data/a|metadata:crc16"));
    EXPECT_FALSE(any("file:/data/a|metadata:crc16,path=/data/meta"));
}

TEST_F(BackendTable, ComplaintsNameTheOptionAsItWasWritten) {
    EXPECT_EQ(refused("mem:size=lots", Written::as_options).substr(0, 31),
              "--size: 'lots' is not a size: w");
    EXPECT_EQ(refused("mem:size=lots").substr(0, 34), "mem: size: 'lots' is not a size: w");
    // Members and layers are specs either way.
    EXPECT_EQ(refused("linear:[null],[mem:size=lots]", Written::as_options).substr(0, 15),
              "mem: size: 'lot");
    EXPECT_EQ(refused("null|delay:read=1", Written::as_options).substr(0, 16), "delay: read: '1'");
}

TEST_F(BackendTable, OptionsThatDoNotGoTogether) {
    EXPECT_EQ(refused("file:/a,create", Written::as_options),
              "--create needs --size: how large the file shall be");
    EXPECT_EQ(refused("file:/a,size=1G"),
              "file: size is for a file that is made, with file: create; a part of a file that "
              "exists is chosen by offset and length");
    EXPECT_EQ(refused("stripe:[mem:size=1M]"), "stripe needs two members or more");
    EXPECT_EQ(refused("linear:[mem:size=1M]"), "linear needs two members or more");
    EXPECT_EQ(refused("null|delay").substr(0, 15), "delay: of what?");
    EXPECT_EQ(refused("null|delay:seed=3").substr(0, 15), "delay: of what?");
    EXPECT_EQ(refused("null|fault").substr(0, 18), "fault: of which ki");
    EXPECT_EQ(refused("null|fault:rate=1"),
              "fault: rate of what? add error, torn, lost or power-cut");
    EXPECT_EQ(refused("null|fault:error,lost"),
              "fault: only one of error, torn, lost and power-cut; for another, add another fault "
              "layer");
    EXPECT_NE(refused("mem:size=1000").find("512"), std::string::npos);
    EXPECT_NE(refused("mem:size=1M,block-size=3000").find("3000"), std::string::npos);
}

TEST_F(BackendTable, OpensMemoryAndNull) {
    const auto memory = opened("mem:size=8M,block-size=4K,hugepages");
    ASSERT_NE(memory, nullptr);
    EXPECT_EQ(memory->geometry().size, 8U << 20);
    EXPECT_EQ(memory->geometry().logical_block_size, 4096U);
    EXPECT_EQ(memory->geometry().physical_block_size, 4096U);
    const auto null = opened("null:no-fill,physical-block-size=8K");
    ASSERT_NE(null, nullptr);
    EXPECT_EQ(null->geometry().size, std::uint64_t{250} << 30);
    EXPECT_EQ(null->geometry().physical_block_size, 8192U);
    EXPECT_EQ(null->data_access(), DataAccess::routes);
}

TEST_F(BackendTable, OpensAFileWhoseNameHoldsAComma) {
    const std::string path = file("a,b.img", 4 << 20);
    const auto whole = opened(format_spec({.type = "file", .path = path}));
    ASSERT_NE(whole, nullptr);
    EXPECT_EQ(whole->geometry().size, 4U << 20);
    EXPECT_FALSE(whole->capabilities().read_only);
}

TEST_F(BackendTable, OpensAWindowOfAFileForReading) {
    const std::string path = file("a", 4 << 20);
    const auto window = opened("file:" + path + ",offset=1M,length=2M,read-only");
    ASSERT_NE(window, nullptr);
    EXPECT_EQ(window->geometry().size, 2U << 20);
    EXPECT_TRUE(window->capabilities().read_only);
}

TEST_F(BackendTable, MakesAFile) {
    const std::string path = directory() + "/new";
    const auto made = opened("file:" + path + ",create,size=1M,preallocate,block-size=4K");
    ASSERT_NE(made, nullptr);
    EXPECT_EQ(made->geometry().size, 1U << 20);
    EXPECT_EQ(made->geometry().logical_block_size, 4096U);
    EXPECT_EQ(std::filesystem::file_size(path), 1U << 20);
}

TEST_F(BackendTable, WhatWasMadeIsOpenedOnceMoreWithoutBeingMade) {
    const std::string path = directory() + "/new";
    const auto spec = parse_spec(
        "linear:[mem:size=1M],[file:" + path + ",create,block-size=4K,size=1M|delay:read=1us]",
        grammar());
    ASSERT_TRUE(spec) << spec.error();
    const std::string again = format_spec(spec_to_reopen(*spec, grammar()));
    EXPECT_EQ(again, "linear:[mem:size=1M],[file:" + path + ",block-size=4K|delay:read=1us]");
    EXPECT_NE(opened(format_spec(*spec)), nullptr);
    EXPECT_NE(opened(again), nullptr);
}

TEST_F(BackendTable, NothingIsOpenedByPreparing) {
    const std::string path = directory() + "/new";
    const auto open = prepared("file:" + path + ",create,size=1M");
    ASSERT_TRUE(open) << open.error();
    EXPECT_FALSE(std::filesystem::exists(path));
    const auto missing = prepared("linear:[mem:size=1M],[file:" + directory() + "/none]");
    ASSERT_TRUE(missing) << missing.error();
    const auto backend = (*missing)(kUnheard);
    ASSERT_FALSE(backend);
    EXPECT_EQ(backend.error().code, ENOENT);
}

TEST_F(BackendTable, OpensBackendsOfBackends) {
    const auto linear = opened("linear:[mem:size=1M],[mem:size=2M]");
    ASSERT_NE(linear, nullptr);
    EXPECT_EQ(linear->geometry().size, 3U << 20);
    const auto stripe =
        opened("stripe:[mem:size=1M|delay:read=1us],[linear:[mem:size=1M],[mem:size=1M]],chunk=8K");
    ASSERT_NE(stripe, nullptr);
    EXPECT_EQ(stripe->geometry().size, 2U << 20);
}

TEST_F(BackendTable, LaysLayersOnFromTheInside) {
    const auto inside = opened("mem:size=1M|fault:volatile-cache|delay:flush=1us");
    ASSERT_NE(inside, nullptr);
    EXPECT_EQ(inside->name(), "delay");
    EXPECT_TRUE(inside->capabilities().flush);
    const auto outside = opened("mem:size=1M|delay:flush=1us|fault:power-cut,after=3s");
    ASSERT_NE(outside, nullptr);
    EXPECT_EQ(outside->name(), "fault");
}

TEST_F(BackendTable, MakesALogAndContinuesIt) {
    const std::string log = directory() + "/log";
    EXPECT_NE(opened("mem:size=1M|log:" + log + ",create"), nullptr);
    EXPECT_EQ(std::filesystem::file_size(log), 64U);
    EXPECT_NE(opened("mem:size=1M|log:" + log), nullptr);
    const auto again = prepared("mem:size=1M|log:" + log + ",create");
    ASSERT_TRUE(again) << again.error();
    EXPECT_EQ((*again)(kUnheard).error().code, EEXIST);
}

}  // namespace
}  // namespace ashlar::cli
