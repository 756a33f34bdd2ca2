// libnbd, loaded when a disk first needs it: with the libraries that it brings along it is larger
// than all the rest of a server, and most servers have no network disk.
#pragma once

#include <libnbd.h>

#include <type_traits>

#include <ashlar/result.h>

// What is used of it, without the "nbd_" before each.
// clang-format off
#define ASHLAR_LIBNBD(each)                                                            \
    each(aio_connect_uri) each(aio_disconnect) each(aio_flush) each(aio_get_direction) \
    each(aio_get_fd) each(aio_is_closed) each(aio_is_connecting) each(aio_is_dead)     \
    each(aio_is_negotiating) each(aio_is_ready) each(aio_notify_read)                  \
    each(aio_notify_write) each(aio_opt_abort) each(aio_opt_info) each(aio_opt_list)   \
    each(aio_pread_structured) each(aio_pwrite) each(aio_trim) each(aio_zero)          \
    each(can_flush) each(can_fua) each(can_multi_conn) each(can_trim) each(can_zero)   \
    each(close) each(create) each(get_block_size) each(get_errno) each(get_error)      \
    each(get_size) each(get_strict_mode) each(get_structured_replies_negotiated)       \
    each(get_tls_negotiated) each(is_read_only) each(is_rotational)                    \
    each(set_export_name) each(set_opt_mode) each(set_request_structured_replies)      \
    each(set_strict_mode) each(set_uri_allow_local_file)

// What 1.18 added, and the headers of older ones do not declare.
#define ASHLAR_LIBNBD_NEWER(each)                                        \
    each(get_extended_headers_negotiated, int(nbd_handle*))              \
    each(set_request_extended_headers, int(nbd_handle*, bool))
// clang-format on

namespace ashlar::nbd {

struct Libnbd {
// NOLINTNEXTLINE(bugprone-macro-parentheses): a name that is declared cannot have any
#define ASHLAR_DECLARE(name) decltype(&::nbd_##name) name = nullptr;
    ASHLAR_LIBNBD(ASHLAR_DECLARE)
#undef ASHLAR_DECLARE
// Null in older ones.
#define ASHLAR_DECLARE(name, ...) std::add_pointer_t<__VA_ARGS__> name = nullptr;
    ASHLAR_LIBNBD_NEWER(ASHLAR_DECLARE)
#undef ASHLAR_DECLARE
};

// Thread: any. Errors: ENOENT (it is not installed, or lacks something of the above).
[[nodiscard]] Result<Libnbd> load_libnbd(const char* file);
// The one of this process. Requires that load_nbd() has succeeded.
[[nodiscard]] const Libnbd& libnbd() noexcept;

}  // namespace ashlar::nbd
