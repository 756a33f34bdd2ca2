// The NBD backend: a disk that another program or machine serves. In a library of its own,
// ashlar::nbd, which needs libnbd.
//
// Source: "The NBD protocol" and "NBD URIs" in the documents of the NetworkBlockDevice project.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <ashlar/backend.h>

namespace ashlar {

// What happens to the connection of a disk that is open.
struct NbdEvent {
    enum class Kind : std::uint8_t {
        lost,     // the connection has ended; requests wait, or fail if there is to be no other
        back,     // there is another one; requests that had no answer were sent again
        failed,   // an attempt to connect failed; told when the reason changes
        overdue,  // the time to reconnect is over: requests fail, attempts go on
        resized,  // the export has become larger; the disk stays as it is
    };
    Kind kind = Kind::lost;
    std::string text{};  // a sentence
};

// Which export, and what becomes of requests while its server is away.
struct NbdOptions {
    // nbd://HOST[:PORT]/EXPORT, nbd+unix:///EXPORT?socket=PATH, nbd+vsock://CID[:PORT]/EXPORT; nbds
    // in place of nbd: through TLS, and not without. Then one of these says whom to trust:
    // ?tls-certificates=DIRECTORY, with ca-cert.pem, and with client-cert.pem and client-key.pem if
    // the server wants to know who asks; or USER@ before the host and ?tls-psk-file=PATH. The
    // certificate must be for the host that the URI names. A Unix socket names none, and whoever
    // listens there is believed, unless a key of the file proves who it is.
    std::string uri{};
    bool read_only = false;  // also when the export is writable
    // How long requests wait for another connection when one is lost; then they fail with
    // ETIMEDOUT. 0: they fail at once with the errno that ended it, as does everything later.
    // Unless it is 0, what a server answers with EIO or ENOMEM, but a flush, is asked again up to 9
    // times within half a second.
    std::chrono::milliseconds reconnect{0};
    // How long a server may take to connect, and how long it may be silent while it owes an answer,
    // before the connection counts as lost. Whatever it says ends a silence, also when another
    // answer has been due for longer. 1 ms to 1 day. Not bounded by it is the look-up of a host's
    // name, which takes as long as resolv.conf(5) lets it: seconds to minutes without a name
    // server.
    std::chrono::milliseconds timeout{30'000};
    // Thread: a queue's, or one that is reconnecting; several at once. Must not block for long.
    std::function<void(const NbdEvent&)> on_event{};
};

// Loads libnbd, which the functions below do when they are called: for a process that locks its
// memory, or loses its file systems, before. Errors: ENOENT (it is not installed).
[[nodiscard]] Result<void> load_nbd();

// Connects, to learn what the export is. Each session makes a connection of its own where the
// server allows several (CAN_MULTI_CONN); else the disk has one queue on one thread.
//
// A request that had no answer when its connection was lost is sent again on the next one, if the
// export is the same: its size, its block sizes and what it can do. Writes that were answered and
// not yet flushed are the server's to keep: a server that loses them, and not only the connection,
// breaks that promise unseen.
//
// Errors: EINVAL (URI, block size, size), those of connecting (ECONNREFUSED, ETIMEDOUT, ...),
// ENOENT (no such export), EACCES (TLS: the server demands it or does not have it, or
// one of both is not trusted), EPROTO (no NBD server).
[[nodiscard]] Result<std::shared_ptr<Backend>> open_nbd(const NbdOptions& options);

// What a server tells of one of its exports.
struct NbdExport {
    std::string name{};
    std::string description{};
    std::uint64_t size = 0;  // bytes
    bool read_only = false;
};
// What a server offers. The URI's export name is not looked at. Errors: as above; EOPNOTSUPP (it
// does not tell).
[[nodiscard]] Result<std::vector<NbdExport>> list_nbd_exports(const std::string& uri,
                                                              std::chrono::milliseconds timeout);

}  // namespace ashlar
