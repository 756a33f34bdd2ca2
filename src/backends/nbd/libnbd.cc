#include "backends/nbd/libnbd.h"

#include <dlfcn.h>
#include <cerrno>
#include <string>

#include <ashlar/nbd.h>

namespace ashlar {
namespace nbd {
namespace {

const Result<Libnbd>& loaded() {
    static const Result<Libnbd> library = load_libnbd("libnbd.so.0");
    return library;
}

}  // namespace

// Stays for good: threads of its libraries may outlive who loaded it.
Result<Libnbd> load_libnbd(const char* file) {
    const auto failed = [] {
        const char* const why = dlerror();
        return std::unexpected(Error{.operation = "load libnbd",
                                     .code = ENOENT,
                                     .detail = why != nullptr ? why : "",
                                     .hint = "install libnbd 1.14 or newer (package libnbd0)"});
    };
    void* const library = dlopen(file, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    if (library == nullptr) return failed();
    Libnbd functions;
#define ASHLAR_FIND(name)                                                                      \
    functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, "nbd_" #name)); \
    if (functions.name == nullptr) return failed();
    ASHLAR_LIBNBD(ASHLAR_FIND)
#undef ASHLAR_FIND
#define ASHLAR_FIND(name, ...) \
    functions.name = reinterpret_cast<decltype(functions.name)>(dlsym(library, "nbd_" #name));
    ASHLAR_LIBNBD_NEWER(ASHLAR_FIND)
#undef ASHLAR_FIND
    return functions;
}

const Libnbd& libnbd() noexcept { return *loaded(); }

}  // namespace nbd

Result<void> load_nbd() {
    const auto& library = nbd::loaded();
    if (!library) return std::unexpected(library.error());
    return {};
}

}  // namespace ashlar
