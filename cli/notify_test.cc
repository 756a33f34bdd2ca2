#include "cli/notify.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "base/fd.h"

namespace ashlar::cli {
namespace {

// A service manager's end.
class Listener {
public:
    explicit Listener(const std::string& name)
        : fd_(socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
        sockaddr_un address{};
        address.sun_family = AF_UNIX;
        std::memcpy(address.sun_path, name.data(), name.size());
        if (name.starts_with('@')) address.sun_path[0] = '\0';
        const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + name.size());
        EXPECT_EQ(bind(fd_.get(), reinterpret_cast<const sockaddr*>(&address), length), 0);
        setenv("NOTIFY_SOCKET", name.c_str(), 1);
    }
    ~Listener() { unsetenv("NOTIFY_SOCKET"); }
    std::string heard() {
        std::array<char, 512> text{};
        const ssize_t got = recv(fd_.get(), text.data(), text.size(), 0);
        return got < 0 ? "nothing" : std::string(text.data(), static_cast<std::size_t>(got));
    }

private:
    Fd fd_;
};

TEST(Notify, TellsBySocketOfEitherKind) {
    const std::string directory = testing::TempDir() + "/notify-" + std::to_string(getpid());
    std::filesystem::create_directory(directory);
    for (const std::string& name :
         {directory + "/socket", "@ashlar-notify-test-" + std::to_string(getpid())}) {
        Listener listener(name);
        const Notify notify = Notify::from_environment();
        EXPECT_TRUE(notify.send("READY=1\nSTATUS=all is well"));
        EXPECT_EQ(listener.heard(), "READY=1\nSTATUS=all is well");
        notify.reloading();
        EXPECT_TRUE(listener.heard().starts_with("RELOADING=1\nMONOTONIC_USEC="));
    }
    std::filesystem::remove_all(directory);
}

TEST(Notify, WithoutAListenerNothingIsSaid) {
    unsetenv("NOTIFY_SOCKET");
    EXPECT_FALSE(Notify::from_environment().send("READY=1"));
    for (const std::string& name :
         {std::string("relative"), "/" + std::string(200, 'x'), std::string("/nowhere/socket")}) {
        setenv("NOTIFY_SOCKET", name.c_str(), 1);
        EXPECT_FALSE(Notify::from_environment().send("READY=1")) << name;
    }
    unsetenv("NOTIFY_SOCKET");
}

TEST(Notify, TheWatchdogIsThatOfThisProcess) {
    unsetenv("WATCHDOG_USEC");
    EXPECT_FALSE(Notify::from_environment().watchdog());
    setenv("WATCHDOG_USEC", "30000000", 1);
    EXPECT_EQ(Notify::from_environment().watchdog(), std::chrono::seconds(30));
    setenv("WATCHDOG_PID", std::to_string(getpid()).c_str(), 1);
    EXPECT_TRUE(Notify::from_environment().watchdog());
    setenv("WATCHDOG_PID", "1", 1);
    EXPECT_FALSE(Notify::from_environment().watchdog());
    unsetenv("WATCHDOG_PID");
    for (const char* nonsense : {"0", "-5", "x", "5x", ""}) {
        setenv("WATCHDOG_USEC", nonsense, 1);
        EXPECT_FALSE(Notify::from_environment().watchdog()) << nonsense;
    }
    unsetenv("WATCHDOG_USEC");
}

}  // namespace
}  // namespace ashlar::cli
