// From a URI to a connection on which requests may begin: what libnbd does.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <string>

#include <ashlar/nbd.h>
#include <ashlar/result.h>

#include "backends/nbd/handle.h"
#include "base/fd.h"

namespace ashlar::nbd {

// What a server says of an export.
struct Export {
    std::uint64_t size = 0;             // bytes
    std::uint32_t block_min = 1;        // bytes: a request's offset and length are multiples
    std::uint32_t block_preferred = 0;  // bytes; 0: not said
    std::uint32_t block_max = 0;        // bytes of the longest read or write; 0: not said
    bool read_only = false;
    bool flush = false;
    bool fua = false;
    bool trim = false;
    bool write_zeroes = false;
    bool several_connections = false;  // a flush on one is good for what any of them wrote
    bool rotational = false;
    bool tls = false;

    friend bool operator==(const Export&, const Export&) = default;
};

// Past the handshake.
struct Connection {
    Export about{};
    bool structured = false;  // reads are answered in chunks
    Fd socket{};              // ours from here on; blocking. Without TLS
    Handle tls{};             // what goes through TLS goes through libnbd
};

// given_up: looked at some times a second; ends it with ECANCELED. Thread: any. Errors: open_nbd's.
[[nodiscard]] Result<Connection> connect(const std::string& uri, std::chrono::milliseconds timeout,
                                         const std::atomic<bool>& given_up);

}  // namespace ashlar::nbd
