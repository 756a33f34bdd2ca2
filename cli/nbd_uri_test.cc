#include "cli/nbd_uri.h"

#include <gtest/gtest.h>

namespace ashlar::cli {
namespace {

using Paths = std::vector<std::string>;

TEST(NbdUri, OfASocket) {
    EXPECT_EQ(uri_of_socket("/run/a b&c.sock"), "nbd+unix:///?socket=/run/a%20b%26c.sock");
}

TEST(NbdUri, PathsThatItNames) {
    EXPECT_EQ(paths_of_uri("nbd://host/export"), Paths{});
    EXPECT_EQ(paths_of_uri("nbd+unix:///a/b?socket=/srv/d.sock"), Paths{"/srv/d.sock"});
    EXPECT_EQ(paths_of_uri("nbd+unix:///?socket=%2fsrv/a%20b%26c%zz#socket=/x"),
              Paths{"/srv/a b&c%zz"});
    EXPECT_EQ(paths_of_uri("nbds+unix://me@/?other=/x;socket=s&tls-psk-file=/k&tls-verify-peer=1"),
              (Paths{"s", "/k"}));
    EXPECT_EQ(paths_of_uri("nbds://host?tls-certificates=/pki"),
              (Paths{"/pki", "/pki/ca-cert.pem", "/pki/ca-crl.pem", "/pki/client-cert.pem",
                     "/pki/client-key.pem"}));
}

TEST(NbdUri, OddOnes) {
    for (const char* const uri :
         {"", "?", "nbd://h?", "nbd://h?socket", "nbd://h?socket=", "nbd://h?&;&", "nbd://h?=/x",
          "nbd://h?my-socket=/x", "nbd://h?sockets=/x", "nbd://h#?socket=/x"}) {
        EXPECT_EQ(paths_of_uri(uri), Paths{}) << uri;
        EXPECT_EQ(uri_with_whole_paths(uri, "/d"), uri);
    }
}

TEST(NbdUri, PathsBecomeWhole) {
    EXPECT_EQ(uri_with_whole_paths("nbd+unix:///x?socket=d.sock", "/data/a b"),
              "nbd+unix:///x?socket=/data/a%20b/d.sock");
    EXPECT_EQ(uri_with_whole_paths("nbds+unix://me@/?socket=a%2fb&tls-psk-file=../k;x=y", "/d"),
              "nbds+unix://me@/?socket=/d/a%2fb&tls-psk-file=/d/../k;x=y");
    EXPECT_EQ(uri_with_whole_paths("nbds://h/e?tls-certificates=pki#f", "/"),
              "nbds://h/e?tls-certificates=/pki#f");
    const std::string whole = "nbds+unix:///?socket=%2Fsrv/s&tls-certificates=/pki";
    EXPECT_EQ(uri_with_whole_paths(whole, "/d"), whole);
}

}  // namespace
}  // namespace ashlar::cli
