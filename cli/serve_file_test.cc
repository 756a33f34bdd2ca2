#include "cli/serve_file.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

ServeFile parse(std::string_view text) {
    auto file = parse_serve_file(text, "/etc/a.toml");
    EXPECT_TRUE(file) << file.error();
    return file ? std::move(*file) : ServeFile{};
}

std::string refused(std::string_view text) {
    const auto file = parse_serve_file(text, "/etc/a.toml");
    return file ? "accepted" : file.error();
}

TEST(ServeFile, EveryWordArrives) {
    const ServeFile file = parse(R"(
[server]
threads = 3
nice = -5
log = "a.log"
force = true

[device.data]
type = "file"
path = "data.img"
direct = true
read-only = false
id = 7
queues = 2
depth = "32"
recovery = "reissue"
layers = ["delay:read=1ms|fault:lost", "log:changes"]

[device.ram]
type = "mem"
size = 1048576
threads = 1
)");
    EXPECT_EQ(file.path, "/etc/a.toml");
    EXPECT_EQ(file.threads, 3U);
    EXPECT_EQ(file.nice, -5);
    EXPECT_EQ(file.log, "/etc/a.log");
    EXPECT_TRUE(file.force);
    ASSERT_EQ(file.devices.size(), 2U);
    const Declaration& data = file.devices[0];
    EXPECT_EQ(data.name, "data");
    EXPECT_EQ(data.line, 8U);
    EXPECT_EQ(data.job.device.id, 7U);
    EXPECT_EQ(data.job.device.queues, 2);
    EXPECT_EQ(data.job.device.depth, 32);
    EXPECT_EQ(data.job.device.recovery, Recovery::reissue);
    EXPECT_FALSE(data.job.device.read_only);
    EXPECT_EQ(format_spec(data.job.spec),
              "file:/etc/data.img,direct|delay:read=1ms|fault:lost|log:/etc/changes");
    EXPECT_EQ(data.job.declared_in, "/etc/a.toml");
    EXPECT_EQ(data.job.declared_as, "data");
    EXPECT_TRUE(data.job.shared);
    const Declaration& ram = file.devices[1];
    EXPECT_EQ(format_spec(ram.job.spec), "mem:size=1048576");
    EXPECT_EQ(ram.job.device.thread_count, 1U);
}

TEST(ServeFile, WithoutServerTableAndAsAList) {
    const ServeFile file = parse(R"(
[[device]]
name = "b"
type = "null"
[[device]]
name = "a"
type = "stripe"
members = ["mem:size=1M", "mem:size=1M"]
chunk = "64K"
[[device]]
name = "n"
type = "nbd"
command = ["nbdkit", "memory", "1G"]
)");
    EXPECT_EQ(file.threads, 0U);
    EXPECT_EQ(file.log, "stderr");
    EXPECT_FALSE(file.force);
    ASSERT_EQ(file.devices.size(), 3U);
    EXPECT_EQ(file.devices[0].name, "b");
    EXPECT_EQ(format_spec(file.devices[1].job.spec),
              "stripe:[mem:size=1M],[mem:size=1M],chunk=64K");
    EXPECT_EQ(file.devices[2].job.spec.command.size(), 3U);
}

TEST(ServeFile, WhatIsWrongIsSaidWithItsLine) {
    struct Case {
        const char* text;
        const char* says;
    };
    const Case cases[] = {
        {"", "/etc/a.toml:1: no device is declared; write [device.NAME]"},
        {"[server\n", "/etc/a.toml:1: not TOML: "},
        {"x = 1\n", "/etc/a.toml:1: 'x' is unknown; allowed are [server] and [device.NAME]"},
        {"server = 1\n", "/etc/a.toml:1: server is a table; write [server]"},
        {"[server]\nthreads = 0\n", "/etc/a.toml:2: threads is a number, 1 to 1024"},
        {"[server]\nthreads = \"2\"\n", "/etc/a.toml:2: threads is a number, 1 to 1024"},
        {"[server]\nnice = 20\n", "/etc/a.toml:2: nice is a number, -20 to 19"},
        {"[server]\nforce = 1\n", "/etc/a.toml:2: force is true or false"},
        {"[server]\nlog = 1\n", "/etc/a.toml:2: log is \"stderr\", \"syslog\" or the path"},
        {"[server]\nx = 1\n", "/etc/a.toml:2: 'x' is no word of [server]; allowed are threads, "},
        {"device = 1\n", "/etc/a.toml:1: device is a table; write [device.NAME] or [[device]]"},
        {"[device]\nsize = 1\n", "/etc/a.toml:2: 'size' stands outside of a device"},
        {"device = [1]\n", "/etc/a.toml:1: device is a table; write [[device]]"},
        {"[[device]]\ntype = \"null\"\n", "/etc/a.toml:1: the device has no name; write name ="},
        {"[device.a]\n", "/etc/a.toml:1: device 'a': its type is missing; known are mem, null, "},
        {"[device.a]\ntype = \"x\"\n", "/etc/a.toml:2: device 'a': 'x' is no type; known are mem"},
        {"[device.a]\ntype = \"mem\"\n", "/etc/a.toml:1: device 'a': type mem needs size = "},
        {"[device.a]\ntype = \"file\"\n", "/etc/a.toml:1: device 'a': type file needs path = "},
        {"[device.a]\ntype = \"nbd\"\n", "/etc/a.toml:1: device 'a': type nbd needs uri = "},
        {"[device.a]\ntype = \"linear\"\n",
         "/etc/a.toml:1: device 'a': type linear needs members = "},
        {"[device.a]\ntype = \"linear\"\nmembers = [\"mem:size=1M\"]\n",
         "/etc/a.toml:1: device 'a': linear needs two members or more"},
        {"[device.a]\ntype = \"linear\"\nmembers = [\"x\"]\n",
         "/etc/a.toml:3: device 'a': members: 'x' is no backend; known are mem"},
        {"[device.a]\ntype = \"null\"\nlayers = [\"x\"]\n",
         "/etc/a.toml:3: device 'a': layers: 'x' is no layer; known are delay"},
        {"[device.a]\ntype = \"null\"\nlayers = \"x\"\n",
         "/etc/a.toml:3: layers is a list of specs"},
        {"[device.a]\ntype = \"null\"\npath = \"x\"\n",
         "/etc/a.toml:3: device 'a': 'path' is no word of type null; allowed are type, layers, "},
        {"[device.a]\ntype = \"null\"\nno-fill = \"yes\"\n",
         "/etc/a.toml:3: device 'a': no-fill is true or false"},
        {"[device.a]\ntype = \"null\"\nqueues = 1.5\n",
         "/etc/a.toml:3: device 'a': queues is text or a whole number: N"},
        {"[device.a]\ntype = \"null\"\n\nqueues = 0\n", "/etc/a.toml:4: device 'a': queues is "},
        {"[device.a]\ntype = \"null\"\n\nsize = \"5X\"\n",
         "/etc/a.toml:4: device 'a': size: '5X' is not a size: "},
        {"[device.a]\ntype = \"mem\"\nsize = 4096\nrecovery = \"queue\"\n",
         "/etc/a.toml:4: device 'a': a disk in memory goes with its server"},
        {"[device.a]\ntype = \"image\"\npath = \"a.qcow2\"\nrecovery = \"queue\"\n",
         "/etc/a.toml:4: device 'a': the program that serves the disk ends with this server"},
        {"[device.a]\ntype = \"null\"\nid = 1\n[device.b]\ntype = \"null\"\nid = 1\n",
         "/etc/a.toml:4: device 'b': id 1 is another device's too"},
        {"[[device]]\nname=\"a\"\ntype=\"null\"\n[[device]]\nname=\"a\"\ntype=\"null\"\n",
         "/etc/a.toml:4: device 'a' is declared twice"},
    };
    for (const Case& one : cases) {
        const std::string said = refused(one.text);
        EXPECT_TRUE(said.starts_with(one.says)) << one.text << "\nsaid: " << said;
        EXPECT_EQ(said.find('\n'), std::string::npos) << said;
    }
}

TEST(ServeFile, AFileThatCannotBeReadIsNamed) {
    const auto none = read_serve_file("/nowhere/a.toml");
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error(), "/nowhere/a.toml: No such file or directory");
    const auto directory = read_serve_file("/tmp");
    ASSERT_FALSE(directory);
    EXPECT_EQ(directory.error(), "/tmp: it cannot be read; name a TOML file");
}

TEST(ServeFile, TheExampleIsInOrder) {
    const auto file = read_serve_file(ASHLAR_EXAMPLES "/serve.toml");
    ASSERT_TRUE(file) << file.error();
    EXPECT_EQ(file->devices.size(), 2U);
}

TEST(ServeFile, ChangesAreNamed) {
    const Declaration one =
        parse("[device.a]\ntype = \"null\"\nsize = 4096\nqueues = 1\n").devices[0];
    const Declaration other =
        parse("[device.a]\ntype = \"null\"\nsize = 8192\nqueues = 2\nlayers = [\"fault:lost\"]\n")
            .devices[0];
    EXPECT_EQ(list_changes(one, one), "");
    EXPECT_EQ(list_changes(one, other), "layers, queues, size");
    const Declaration file = parse("[device.a]\ntype = \"file\"\npath = \"/x\"\n").devices[0];
    EXPECT_EQ(list_changes(one, file), "path, queues, size, type");
}

}  // namespace
}  // namespace ashlar::cli
