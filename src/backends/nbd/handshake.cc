#include "backends/nbd/handshake.h"

#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <algorithm>
#include <cerrno>
#include <string_view>
#include <utility>

#include "backends/nbd/bound.h"
#include "backends/nbd/trust.h"

namespace ashlar::nbd {
namespace {

using std::chrono::milliseconds;

constexpr int kLookMs = 100;

bool contains(std::string_view text, std::string_view word) {
    return text.find(word) != std::string_view::npos;
}

// libnbd has an errno for some of what goes wrong only.
int code_of(int code, std::string_view text) {
    if (contains(text, "gnutls") || contains(text, "TLS")) return EACCES;
    if (code != 0) return code;
    if (contains(text, "getaddrinfo")) return EHOSTUNREACH;
    if (contains(text, "URI")) return EINVAL;
    return EPROTO;
}

const char* hint_of(int code, std::string_view text) {
    if (contains(text, "requires TLS")) return "write nbds in place of nbd";
    if (contains(text, "refused TLS")) return "write nbd in place of nbds, if all may read along";
    switch (code) {
        case ECONNREFUSED: return "is the server running, and on that port or socket?";
        case ENOENT: return "is the socket's path right, and the export's name? 'ashlar nbd list'";
        case EHOSTUNREACH: return "check the host's name";
        case EACCES: return "check the certificates or keys that the URI names";
        case ETIMEDOUT: return "is a firewall in between? --timeout says how long it may take";
        case EINVAL: return "write nbd://HOST[:PORT]/EXPORT or nbd+unix:///EXPORT?socket=PATH";
        case EPROTO: return "is that an NBD server?";
        default: return "";
    }
}

Error error_of(const std::string& uri, int code, std::string detail) {
    Error error{.operation = "connect to " + uri, .code = code, .hint = hint_of(code, detail)};
    error.detail = std::move(detail);
    return error;
}

// What the call that failed just now says, on this thread.
Error last_error(const std::string& uri) {
    const char* const said = libnbd().get_error();
    std::string text = said != nullptr ? said : "";
    const int code = code_of(libnbd().get_errno(), text);
    // "nbd_aio_notify_write: connect: Connection refused": whose function it was is of no use to
    // anybody.
    if (text.starts_with("nbd_")) text.erase(0, std::min(text.find(": ") + 2, text.size()));
    return error_of(uri, code, std::move(text));
}

Error out_of_time(const std::string& uri, int code) {
    return error_of(uri, code, code == ETIMEDOUT ? "no answer in time" : "");
}

// As nbd_poll, which takes an end for something to read where only a write is due: a server that
// had hung up before libnbd looked at its new connection would be a mistake in the call.
bool take_step(nbd_handle* handle) {
    const auto wants = [&](unsigned direction) {
        return (libnbd().aio_get_direction(handle) & direction) != 0;
    };
    pollfd ready{.fd = libnbd().aio_get_fd(handle), .events = 0, .revents = 0};
    if (wants(LIBNBD_AIO_DIRECTION_READ)) ready.events |= POLLIN;
    if (wants(LIBNBD_AIO_DIRECTION_WRITE)) ready.events |= POLLOUT;
    if (poll(&ready, 1, kLookMs) <= 0) return true;
    const bool has_ended = (ready.revents & ~(POLLIN | POLLOUT)) != 0;
    if ((has_ended || (ready.revents & POLLIN) != 0) && wants(LIBNBD_AIO_DIRECTION_READ)) {
        return libnbd().aio_notify_read(handle) == 0;
    }
    return libnbd().aio_notify_write(handle) == 0;
}

Result<void> await_handshake(nbd_handle* handle, const std::string& uri, Bound& bound) {
    int code = bound.error();
    while (code == 0 && libnbd().aio_is_connecting(handle) == 1) {
        bound.watch(libnbd().aio_get_fd(handle));
        const bool went_on = take_step(handle);
        code = bound.error();
        if (!went_on && code == 0) return std::unexpected(last_error(uri));
    }
    bound.watch(-1);
    // From here on it hangs up no more; whether it has is certain only now.
    code = bound.error();
    if (code != 0) return std::unexpected(out_of_time(uri, code));
    if (libnbd().aio_is_ready(handle) != 1 && libnbd().aio_is_negotiating(handle) != 1) {
        return std::unexpected(error_of(uri, EPROTO, "the server ended the connection"));
    }
    return {};
}

// What was not said is zero, whatever the reason.
std::uint32_t block_size(nbd_handle* handle, int which) {
    const std::int64_t size = libnbd().get_block_size(handle, which);
    return size < 0 || size > UINT32_MAX ? 0 : static_cast<std::uint32_t>(size);
}

Result<Export> ask(nbd_handle* handle, const std::string& uri) {
    const std::int64_t size = libnbd().get_size(handle);
    // Of a size that no disk has libnbd says nothing more.
    if (size < 0)
        return std::unexpected(error_of(uri, EPROTO, "the server says no size of a disk"));
    return Export{.size = static_cast<std::uint64_t>(size),
                  .block_min = std::max(block_size(handle, LIBNBD_SIZE_MINIMUM), 1U),
                  .block_preferred = block_size(handle, LIBNBD_SIZE_PREFERRED),
                  .block_max = block_size(handle, LIBNBD_SIZE_MAXIMUM),
                  .read_only = libnbd().is_read_only(handle) == 1,
                  .flush = libnbd().can_flush(handle) == 1,
                  .fua = libnbd().can_fua(handle) == 1,
                  .trim = libnbd().can_trim(handle) == 1,
                  .write_zeroes = libnbd().can_zero(handle) == 1,
                  .several_connections = libnbd().can_multi_conn(handle) == 1,
                  .rotational = libnbd().is_rotational(handle) == 1,
                  .tls = libnbd().get_tls_negotiated(handle) == 1};
}

// A host that is gone is noticed although nothing is being asked.
void keep_alive(int socket, milliseconds timeout) {
    int domain = 0;
    socklen_t length = sizeof(domain);
    getsockopt(socket, SOL_SOCKET, SO_DOMAIN, &domain, &length);
    if (domain != AF_INET && domain != AF_INET6) return;
    constexpr int most = 32'767;  // the kernel refuses more
    const auto timeout_s = static_cast<int>(timeout.count() / 1000);
    const int seconds = std::clamp(timeout_s, 1, most);
    const int interval = std::clamp(timeout_s / 3, 1, most);
    const int on = 1;
    const int probes = 3;
    setsockopt(socket, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPIDLE, &seconds, sizeof(seconds));
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
    setsockopt(socket, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
    const auto user_timeout = static_cast<unsigned>(timeout.count());
    setsockopt(socket, IPPROTO_TCP, TCP_USER_TIMEOUT, &user_timeout, sizeof(user_timeout));
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

// libnbd has sent and received nothing beyond the handshake: it begins no reply before a request.
Result<Fd> take_socket(nbd_handle* handle, const std::string& uri) {
    Fd socket(fcntl(libnbd().aio_get_fd(handle), F_DUPFD_CLOEXEC, 3));
    const int flags = socket.valid() ? fcntl(socket.get(), F_GETFL) : -1;
    // The ring waits by itself; of a descriptor that does not block it would only ask.
    if (flags < 0 || fcntl(socket.get(), F_SETFL, flags & ~O_NONBLOCK) != 0) {
        return std::unexpected(error_of(uri, errno, "take over the socket"));
    }
    return socket;
}

Result<Handle> make_handle(const std::string& uri) {
    if (auto trust = check_trust(uri); !trust) return std::unexpected(trust.error());
    Handle handle(libnbd().create());
    if (handle == nullptr) return std::unexpected(last_error(uri));
    // Key files are named by who runs the command, not by a server.
    if (libnbd().set_uri_allow_local_file(handle.get(), true) != 0) {
        return std::unexpected(last_error(uri));
    }
    // From 1.18 on libnbd asks for headers with lengths of 64 bits, of which SocketWire knows
    // nothing.
    if (libnbd().set_request_extended_headers != nullptr &&
        libnbd().set_request_extended_headers(handle.get(), false) != 0) {
        return std::unexpected(last_error(uri));
    }
    return handle;
}

struct Listing {
    std::vector<NbdExport> exports{};
};

// Nobody reads more.
constexpr std::size_t kExportsMost = 10'000;

int note_export(void* context, const char* export_name, const char* description) {
    auto& exports = static_cast<Listing*>(context)->exports;
    if (exports.size() < kExportsMost) {
        exports.push_back({.name = export_name, .description = description});
    }
    return 0;
}

int note_error(void* context, int* error) {
    *static_cast<int*>(context) = *error;
    return 1;
}

}  // namespace

Result<Connection> connect(const std::string& uri, milliseconds timeout,
                           const std::atomic<bool>& given_up) {
    auto made = make_handle(uri);
    if (!made) return std::unexpected(made.error());
    nbd_handle* const handle = made->get();
    auto bound = Bound::begin(timeout, given_up);
    if (!bound) return std::unexpected(bound.error());
    // Between processes of one machine, chunks cost more than the zeroes they leave out.
    if (uri.starts_with("nbd+unix:")) libnbd().set_request_structured_replies(handle, false);
    if (libnbd().aio_connect_uri(handle, uri.c_str()) != 0) return std::unexpected(last_error(uri));
    if (auto done = await_handshake(handle, uri, **bound); !done) {
        return std::unexpected(done.error());
    }
    auto about = ask(handle, uri);
    if (!about) return std::unexpected(about.error());
    Connection connection{.about = *about,
                          .structured = libnbd().get_structured_replies_negotiated(handle) == 1};
    keep_alive(libnbd().aio_get_fd(handle), timeout);
    if (about->tls) {
        connection.tls = std::move(*made);
        return connection;
    }
    if (libnbd().get_extended_headers_negotiated != nullptr &&
        libnbd().get_extended_headers_negotiated(handle) == 1) {
        return std::unexpected(error_of(uri, EPROTO, "extended headers, which were not asked for"));
    }
    auto socket = take_socket(handle, uri);
    if (!socket) return std::unexpected(socket.error());
    connection.socket = std::move(*socket);
    return connection;
}

}  // namespace ashlar::nbd

namespace ashlar {

Result<std::vector<NbdExport>> list_nbd_exports(const std::string& uri,
                                                std::chrono::milliseconds timeout) {
    if (auto loaded = load_nbd(); !loaded) return std::unexpected(loaded.error());
    using namespace nbd;
    auto made = make_handle(uri);
    if (!made) return std::unexpected(made.error());
    nbd_handle* const handle = made->get();
    const std::atomic<bool> never = false;
    auto bound = Bound::begin(timeout, never);
    if (!bound) return std::unexpected(bound.error());
    const auto settled = [&] { return await_handshake(handle, uri, **bound); };
    if (libnbd().set_opt_mode(handle, true) != 0 ||
        libnbd().aio_connect_uri(handle, uri.c_str()) != 0) {
        return std::unexpected(last_error(uri));
    }
    if (auto done = settled(); !done) return std::unexpected(done.error());
    Listing listing;
    int error = 0;
    const nbd_completion_callback completion{
        .callback = note_error, .user_data = &error, .free = nullptr};
    // libnbd may go on with the protocol in any call.
    (*bound)->watch(libnbd().aio_get_fd(handle));
    if (libnbd().aio_opt_list(handle,
                              {.callback = note_export, .user_data = &listing, .free = nullptr},
                              completion) < 0) {
        return std::unexpected(last_error(uri));
    }
    if (auto done = settled(); !done) return std::unexpected(done.error());
    if (error != 0) {
        const int code = error == ENOTSUP ? EOPNOTSUPP : error;
        return std::unexpected(error_of(uri, code, "it does not tell what it offers"));
    }
    for (NbdExport& one : listing.exports) {
        // A server may keep what it tells of an export to itself.
        error = 0;
        (*bound)->watch(libnbd().aio_get_fd(handle));
        if (libnbd().set_export_name(handle, one.name.c_str()) != 0 ||
            libnbd().aio_opt_info(handle, completion) != 0) {
            continue;
        }
        if (auto done = settled(); !done) return std::unexpected(done.error());
        if (error != 0) continue;
        one.size = static_cast<std::uint64_t>(std::max<std::int64_t>(libnbd().get_size(handle), 0));
        one.read_only = libnbd().is_read_only(handle) == 1;
    }
    libnbd().aio_opt_abort(handle);
    return std::move(listing.exports);
}

}  // namespace ashlar
