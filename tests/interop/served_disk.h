// ServedDisk: a disk of zeroes that one of the servers that others wrote serves, in one of the ways
// in which it can be reached.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "interop/nbdkit.h"

namespace ashlar::test {

class ServedDisk {
public:
    enum class Program : std::uint8_t { nbdkit_memory, nbdkit_file, qemu_raw, qemu_qcow2, nbd };
    enum class Transport : std::uint8_t { local, tcp };
    enum class Security : std::uint8_t { plain, certificates, psk };
    struct Kind {
        Program program = Program::nbdkit_memory;
        Transport transport = Transport::local;
        Security security = Security::plain;
    };
    // "qemu_qcow2_tcp_certificates"
    static std::string name(const Kind& kind) {
        constexpr std::array programs{"nbdkit_memory", "nbdkit_file", "qemu_raw", "qemu_qcow2",
                                      "nbd_server"};
        constexpr std::array transports{"local", "tcp"};
        constexpr std::array securities{"plain", "certificates", "psk"};
        return std::string(programs[static_cast<std::size_t>(kind.program)]) + "_" +
               transports[static_cast<std::size_t>(kind.transport)] + "_" +
               securities[static_cast<std::size_t>(kind.security)];
    }

    static constexpr std::uintmax_t kSize = 64 << 20;

    explicit ServedDisk(const Kind& kind) : kind_(kind) {
        if (kind.security == Security::certificates) make_certificates();
        if (kind.security == Security::psk) {
            std::ofstream(server_.path("keys.psk")) << "somebody:00112233445566778899aabbccddeeff"
                                                    << "\n";
        }
    }

    NbdServer& server() { return server_; }

    // A fresh one, in place of the one before.
    void start() {
        switch (kind_.program) {
            case Program::nbdkit_memory: return start_nbdkit({"memory", std::to_string(kSize)});
            case Program::nbdkit_file: return start_nbdkit({"file", server_.fresh_file(kSize)});
            case Program::qemu_raw: return start_qemu("raw", server_.fresh_file(kSize));
            case Program::qemu_qcow2: return start_qemu("qcow2", fresh_qcow2());
            case Program::nbd: return start_nbd();
        }
    }

    [[nodiscard]] std::string uri() const {
        const bool tls = kind_.security != Security::plain;
        std::string text = tls ? "nbds" : "nbd";
        text += kind_.transport == Transport::local ? "+unix://" : "://";
        if (kind_.security == Security::psk) text += "somebody@";
        if (kind_.transport == Transport::tcp) text += "localhost:" + server_.port().text();
        text += kind_.program == Program::nbd ? "/disk" : "/";
        char separator = '?';
        if (kind_.transport == Transport::local) {
            text += "?socket=" + server_.socket();
            separator = '&';
        }
        if (tls) text += separator;
        if (kind_.security == Security::certificates) {
            text += "tls-certificates=" + server_.path("");
        }
        if (kind_.security == Security::psk) text += "tls-psk-file=" + server_.path("keys.psk");
        return text;
    }

private:
    [[nodiscard]] bool is_local() const { return kind_.transport == Transport::local; }
    void start(std::vector<std::string> words) {
        is_local() ? server_.start(std::move(words)) : server_.start_tcp(std::move(words));
    }

    void start_nbdkit(std::vector<std::string> plugin) {
        std::vector<std::string> words{"nbdkit", "-f"};
        add(words, is_local()
                       ? std::vector<std::string>{"-U", server_.socket()}
                       : std::vector<std::string>{"-i", "localhost", "-p", server_.port().text()});
        if (kind_.security == Security::certificates) {
            add(words,
                {"--tls=require", "--tls-verify-peer", "--tls-certificates=" + server_.path("")});
        }
        if (kind_.security == Security::psk) {
            add(words, {"--tls=require", "--tls-psk=" + server_.path("keys.psk")});
        }
        add(words, std::move(plugin));
        start(std::move(words));
    }

    void start_qemu(const std::string& format, const std::string& file) {
        std::vector<std::string> words{"qemu-nbd",       "-t", "-e", "0", "-f", format,
                                       "--discard=unmap"};
        add(words, is_local()
                       ? std::vector<std::string>{"-k", server_.socket()}
                       : std::vector<std::string>{"-b", "localhost", "-p", server_.port().text()});
        const std::string where = "id=tls0,endpoint=server,dir=" + server_.path("");
        if (kind_.security == Security::certificates) {
            add(words, {"--object", "tls-creds-x509,verify-peer=yes," + where, "--tls-creds=tls0"});
        }
        if (kind_.security == Security::psk) {
            add(words, {"--object", "tls-creds-psk," + where, "--tls-creds=tls0"});
        }
        words.push_back(file);
        start(std::move(words));
    }
    [[nodiscard]] std::string fresh_qcow2() const {
        const std::string path = server_.path("disk.qcow2");
        std::filesystem::remove(path);
        run_to_end("qemu-img create -q -f qcow2 " + path + " " + std::to_string(kSize),
                   "qemu-utils");
        return path;
    }

    void start_nbd() {
        std::ofstream config(server_.path("config"));
        config << "[generic]\n";
        if (is_local()) {
            config << "unixsock=" << server_.socket() << "\n";
            // It listens on a port all the same.
        }
        config << "listenaddr=127.0.0.1\nport=" << server_.port().text() << "\n";
        if (kind_.security == Security::certificates) {
            config << "certfile=" << server_.path("server-cert.pem")
                   << "\nkeyfile=" << server_.path("server-key.pem")
                   << "\ncacertfile=" << server_.path("ca-cert.pem") << "\nforce_tls=true\n";
        }
        config << "[disk]\nexportname=" << server_.fresh_file(kSize)
               << "\nflush=true\nfua=true\ntrim=true\n";
        config.close();
        server_.start_daemon(
            {"nbd-server", "-C", server_.path("config"), "-p", server_.path("pid")}, !is_local());
    }

    // One authority, which vouches for the server, localhost, and for the client.
    void make_certificates() const {
        const auto write = [&](const char* name, const std::string& content) {
            std::ofstream(server_.path(name)) << content;
        };
        write("ca.info", "cn = Test\nca\ncert_signing_key\n");
        write("server.info", "cn = localhost\ndns_name = localhost\ntls_www_server\nsigning_key\n");
        write("client.info", "cn = client\ntls_www_client\nsigning_key\n");
        std::string commands = "cd " + server_.path("") + " && exec 2>/dev/null";
        for (const std::string who : {"ca", "server", "client"}) {
            commands += " && certtool --generate-privkey --key-type ecdsa --outfile " + who +
                        "-key.pem && certtool --load-privkey " + who + "-key.pem --template " +
                        who + ".info --outfile " + who + "-cert.pem " +
                        (who == "ca" ? "--generate-self-signed"
                                     : "--generate-certificate --load-ca-certificate ca-cert.pem "
                                       "--load-ca-privkey ca-key.pem");
        }
        run_to_end("( " + commands + " )", "gnutls-bin");
    }

    static void add(std::vector<std::string>& words, std::vector<std::string> more) {
        words.insert(words.end(), std::make_move_iterator(more.begin()),
                     std::make_move_iterator(more.end()));
    }

    const Kind kind_;
    NbdServer server_;
};

}  // namespace ashlar::test
