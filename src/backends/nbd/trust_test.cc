#include "backends/nbd/trust.h"

#include <gtest/gtest.h>
#include <cerrno>
#include <fstream>
#include <string>

#include "interop/nbdkit.h"

namespace ashlar::nbd {
namespace {

int error_of(const std::string& uri) {
    const auto trust = check_trust(uri);
    return trust ? 0 : trust.error().code;
}

TEST(Trust, OnlyTlsWantsIt) {
    EXPECT_EQ(error_of("nbd://host/"), 0);
    EXPECT_EQ(error_of("nbd+unix:///?socket=/nbds"), 0);
    for (const char* const scheme : {"nbds://host/", "nbds+unix:///?socket=a", "nbds+vsock://2/"}) {
        EXPECT_EQ(error_of(scheme), EINVAL) << scheme;
    }
}

TEST(Trust, AnAuthority) {
    const test::NbdServer files;
    std::ofstream(files.path("ca-cert.pem")) << "?";
    const std::string there = files.path("");
    EXPECT_EQ(error_of("nbds://host/?tls-certificates=" + there), 0);
    EXPECT_EQ(error_of("nbds+unix:///?socket=a&tls-certificates=" + there), 0);
    EXPECT_EQ(error_of("nbds+unix:///?socket=a;tls-certificates=" + there), 0);
    EXPECT_EQ(error_of("nbds+unix:///?tls-certificates=" + there + "&socket=a"), 0);
    std::string escaped;
    for (const char letter : there) escaped += letter == '/' ? "%2f" : std::string(1, letter);
    EXPECT_EQ(error_of("nbds://host/?tls-certificates=" + escaped), 0);
    EXPECT_EQ(error_of("nbds://host/?tls-certificates=" + there + "%2"), ENOENT);
    EXPECT_EQ(error_of("nbds://host/?tls-certificates=" + there + "nowhere"), ENOENT);
    EXPECT_EQ(error_of("nbds://host/?tls-certificates="), EINVAL);
    EXPECT_EQ(error_of("nbds://host/?tls-certificates"), EINVAL);
    EXPECT_EQ(error_of("nbds://host/?not-tls-certificates=" + there), EINVAL);
    EXPECT_EQ(error_of("nbds://host/tls-certificates=" + there), EINVAL);
}

TEST(Trust, Keys) {
    EXPECT_EQ(error_of("nbds://me@host/?tls-psk-file=/etc/keys"), 0);
    EXPECT_EQ(error_of("nbds://me@host/?tls-psk-file="), EINVAL);
}

TEST(Trust, SaysWhatToDo) {
    const std::string none = check_trust("nbds://host/").error().message();
    EXPECT_NE(none.find("add ?tls-certificates="), std::string::npos) << none;
    const std::string missing =
        check_trust("nbds://host/?tls-certificates=/nowhere").error().message();
    EXPECT_NE(missing.find("/nowhere/ca-cert.pem"), std::string::npos) << missing;
}

}  // namespace
}  // namespace ashlar::nbd
