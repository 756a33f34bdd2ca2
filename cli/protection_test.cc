#include "cli/protection.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <functional>

namespace ashlar::cli {
namespace {

using Points = std::vector<std::string>;

// Protections are for a whole process and cannot be taken back: each test has its own.
// 0: all that the child checked holds; else the line that does not.
int in_child(const std::function<int()>& check) {
    const pid_t child = fork();
    if (child == 0) _exit(check());
    int status = 0;
    waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

// Any user but root, who has no rights.
bool drop_rights() { return getuid() != 0 || (setgid(65534) == 0 && setuid(65534) == 0); }

const Protection& find(const Protections& protections, std::string_view name) {
    for (const Protection& each : protections.all()) {
        if (each.name == name) return each;
    }
    std::abort();
}

bool says(const Protection& protection, std::string_view word) {
    return protection.detail.find(word) != std::string::npos;
}

TEST(Protections, TellWhatWithoutRightsCannotBeHad) {
    const auto check = [] {
        const rlimit none{.rlim_cur = 0, .rlim_max = 0};
        if (setrlimit(RLIMIT_MEMLOCK, &none) != 0 || !drop_rights()) return __LINE__;
        Protections protections;
        protections.before_backend();
        protections.after_backend({});
        for (const char* name : {"memory-lock", "io-flusher", "oom-score", "mount-namespace"}) {
            const Protection& each = find(protections, name);
            if (each.active) return __LINE__;
            if (!says(each, "EPERM") && !says(each, "EACCES")) return __LINE__;
            if (!says(each, "; run it as root")) return __LINE__;
            if (says(each, "\n")) return __LINE__;
        }
        return 0;
    };
    EXPECT_EQ(in_child(check), 0) << "a line of this file";
}

TEST(Protections, AFiniteLimitLocksNothing) {
    const auto check = [] {
        // Enough for the program, not for a disk: locking would refuse the disk's memory later.
        rlimit some{};
        if (getrlimit(RLIMIT_MEMLOCK, &some) != 0) return __LINE__;
        some.rlim_max = std::min(some.rlim_max, rlim_t{256} << 20);
        some.rlim_cur = some.rlim_max;
        if (setrlimit(RLIMIT_MEMLOCK, &some) != 0 || !drop_rights()) return __LINE__;
        Protections protections;
        protections.before_backend();
        return find(protections, "memory-lock").active ? __LINE__ : 0;
    };
    EXPECT_EQ(in_child(check), 0) << "a line of this file";
}

TEST(Protections, DescriptorsAreRaisedToTheHardLimit) {
    const auto check = [] {
        rlimit limit{.rlim_cur = 64, .rlim_max = 2048};
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return __LINE__;
        Protections protections;
        protections.before_backend();
        if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur != 2048) return __LINE__;
        return find(protections, "descriptors").active ? 0 : __LINE__;
    };
    EXPECT_EQ(in_child(check), 0) << "a line of this file";
}

TEST(Protections, FewDescriptorsAreTold) {
    const auto check = [] {
        const rlimit limit{.rlim_cur = 64, .rlim_max = 100};
        if (setrlimit(RLIMIT_NOFILE, &limit) != 0) return __LINE__;
        Protections protections;
        protections.before_backend();
        const Protection& each = find(protections, "descriptors");
        if (each.active || !says(each, "at most 100 open files")) return __LINE__;
        return says(each, "LimitNOFILE") ? 0 : __LINE__;
    };
    EXPECT_EQ(in_child(check), 0) << "a line of this file";
}

TEST(Protections, AsJson) {
    const auto json = to_json({{.name = "a", .active = true, .detail = "done"},
                               {.name = "b", .active = false, .detail = "not done"}});
    EXPECT_EQ(json.dump(), R"({"a":{"active":true,"detail":"done"},)"
                           R"("b":{"active":false,"detail":"not done"}})");
}

Points unneeded(std::string_view mountinfo) { return mounts_of_others(mountinfo, {}).unneeded; }

TEST(UnneededMounts, AreThoseOfOthersOutermostFirst) {
    const Points points = unneeded(
        "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "22 21 0:5 / /dev rw shared:2 - devtmpfs udev rw\n"
        "23 21 0:20 / /run rw - tmpfs tmpfs rw\n"
        "24 21 8:2 / /mnt/outer rw master:4 - xfs /dev/sda2 rw\n"
        "25 24 259:0 / /mnt/outer/inner rw - ext4 /dev/ublkb0 rw\n"
        "26 21 0:40 / /home rw - nfs4 host:/home rw\n"
        "27 23 0:41 / /run/user/1000/doc rw - fuse.portal portal rw\n");
    EXPECT_EQ(points, (Points{"/mnt/outer", "/mnt/outer/inner", "/home", "/run/user/1000/doc"}));
}

TEST(UnneededMounts, KeepWhatIsOfMemoryAndOfTheKernel) {
    EXPECT_EQ(unneeded("21 1 0:9 / /scratch rw - tmpfs tmpfs rw\n"
                       "23 1 0:29 / /dev/hugepages rw - hugetlbfs hugetlbfs rw\n"
                       "22 1 0:8 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw\n"
                       "23 1 0:7 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"
                       "24 1 8:3 /c/hosts /etc/hosts rw - ext4 /dev/sda3 rw\n"
                       "25 1 8:4 / /usr rw - ext4 /dev/sda4 rw\n"),
              Points{});
}

TEST(UnneededMounts, ReadEscapes) {
    EXPECT_EQ(unneeded("24 21 8:2 / /mnt/a\\040b\\134c rw - xfs /dev/sda2 rw\n"),
              Points{"/mnt/a b\\c"});
    EXPECT_EQ(unneeded("24 21 8:2 / /mnt/x\\04 rw - xfs /dev/sda2 rw\n"), Points{"/mnt/x\\04"});
}

TEST(UnneededMounts, OddLinesAreSkipped) {
    EXPECT_EQ(unneeded("\nnonsense\n24 21 8:2 /\n"), Points{});
    // Without a type it is nobody's we know.
    EXPECT_EQ(unneeded("24 21 8:2 / /mnt/x rw shared:1\n"), Points{"/mnt/x"});
}

constexpr std::string_view kSome =
    "21 1 8:1 / / rw - ext4 /dev/sda1 rw\n"
    "24 21 8:2 / /srv rw - xfs /dev/sda2 rw\n"
    "25 24 8:3 / /srv/in rw - xfs /dev/sda3 rw\n"
    "26 24 8:4 / /srv/in/deep rw - xfs /dev/sda4 rw\n"
    "27 21 259:0 / /disk rw - ext4 /dev/ublkb0 rw\n"
    "28 27 8:5 / /disk/in rw - ext4 /dev/sda5 rw\n"
    "29 21 8:6 / /twice rw - ext4 /dev/sda6 rw\n"
    "30 29 259:1 / /twice rw - ext4 /dev/ublkb1p1 rw\n"
    "31 21 0:9 / /ram rw - tmpfs tmpfs rw\n";

Points kept(const Points& needed) { return mounts_of_others(kSome, needed).kept; }

TEST(KeptMounts, AreTheOnesThatAPathLeadsThrough) {
    EXPECT_EQ(kept({}), Points{});
    EXPECT_EQ(kept({"/srv/d.sock"}), Points{"/srv"});
    EXPECT_EQ(kept({"/srv"}), Points{"/srv"});
    EXPECT_EQ(kept({"/srv/in/d.sock", "/srv/d.sock"}), (Points{"/srv", "/srv/in"}));
    EXPECT_EQ(kept({"/run/d.sock", "/ram/d.sock", "/srv2/d.sock", "/s"}), Points{});
    EXPECT_EQ(mounts_of_others(kSome, {"/srv/in/x"}).unneeded,
              (Points{"/srv/in/deep", "/disk", "/disk/in", "/twice", "/twice"}));
}

TEST(KeptMounts, NeverOfAUblkDisk) {
    EXPECT_EQ(kept({"/disk/d.sock"}), Points{});
    EXPECT_EQ(kept({"/disk/in/d.sock"}), Points{}) << "it goes with what it is mounted in";
    EXPECT_EQ(kept({"/twice/d.sock"}), Points{}) << "the disk's is not to stay below";
    EXPECT_EQ(mounts_of_others("27 21 259:0 / / rw - ext4 /dev/ublkb0 rw\n"
                               "28 27 8:5 / /srv rw - ext4 /dev/sda5 rw\n",
                               {"/srv/d.sock"})
                  .kept,
              Points{"/srv"})
        << "the root stays anyway";
}

TEST(PlacesOnTheWay, AreLinksAndTheEnd) {
    const auto made = std::filesystem::temp_directory_path() / ("ways" + std::to_string(getpid()));
    std::filesystem::create_directories(made / "a" / "b");
    const auto top = std::filesystem::canonical(made);
    const auto in = [&](const char* name) { return (top / name).string(); };
    std::filesystem::create_symlink("b/../next", top / "a" / "first");
    std::filesystem::create_symlink(top / "end", top / "a" / "next");
    std::filesystem::create_symlink("loop", top / "loop");
    EXPECT_EQ(places_on_the_way(in("a/b/./../b//gone/x")), Points{in("a/b/gone/x")});
    EXPECT_EQ(places_on_the_way(in("a/first/d.sock")),
              (Points{in("a/first"), in("a/next"), in("end/d.sock")}));
    EXPECT_EQ(places_on_the_way(in("loop/x")).back(), in("loop/x"));
    EXPECT_EQ(places_on_the_way("/../"), Points{"/"});
    std::filesystem::remove_all(made);
}

}  // namespace
}  // namespace ashlar::cli
