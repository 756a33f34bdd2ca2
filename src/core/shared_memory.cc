#include "core/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cerrno>
#include <cstdint>
#include <utility>

#include "kernel/abi.h"

namespace ashlar {
namespace {

std::unexpected<Error> refuse(const std::string& path, int code, std::string detail = {}) {
    return std::unexpected(Error{.operation = "share memory " + path,
                                 .code = code,
                                 .detail = std::move(detail),
                                 .hint = "give a file of tmpfs or hugetlbfs, or of a memfd"});
}

Result<Mapping> map(const std::string& path) {
    const Fd fd(::open(path.c_str(), O_RDWR | O_CLOEXEC));
    if (!fd.valid()) return refuse(path, errno);
    struct stat status{};
    if (fstat(fd.get(), &status) != 0) return refuse(path, errno);
    const auto size = static_cast<std::uint64_t>(status.st_size);
    const auto page = static_cast<std::uint64_t>(sysconf(_SC_PAGESIZE));
    if (!S_ISREG(status.st_mode)) return refuse(path, EINVAL, "it is no regular file");
    if (size == 0 || size % page != 0 || size > kernel::abi::shmem_buf_size_max) {
        return refuse(path, EINVAL,
                      "it has " + std::to_string(size) + " bytes; allowed are whole pages of " +
                          std::to_string(page) + " up to 4 GiB");
    }
    void* memory =
        mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd.get(), 0);
    if (memory == MAP_FAILED) return refuse(path, errno);
    // Children (see child_control.h) have no use for it.
    static_cast<void>(madvise(memory, size, MADV_DONTFORK));
    return Mapping(memory, size);
}

}  // namespace

Result<std::shared_ptr<const SharedMemory>> SharedMemory::open(std::span<const std::string> paths) {
    auto memory = std::make_shared<SharedMemory>();
    for (const std::string& path : paths) {
        auto mapped = map(path);
        if (!mapped) return std::unexpected(mapped.error());
        memory->buffers_.emplace_back(mapped->data(), mapped->size());
        memory->mappings_.push_back(std::move(*mapped));
    }
    if (paths.empty()) memory.reset();
    return memory;
}

Result<void> SharedMemory::register_with(Control& control, DeviceId id,
                                         const SharedMemory* memory) {
    // The driver gives the lowest index that is free.
    for (std::uint16_t index = 0; control.unregister_buffer(id, index); ++index) continue;
    if (memory == nullptr) return {};
    for (std::size_t index = 0; index < memory->buffers_.size(); ++index) {
        auto known = control.register_buffer(id, memory->buffers_[index]);
        if (!known) return std::unexpected(known.error());
        if (*known != index) {
            return std::unexpected(Error{.operation = "share memory",
                                         .code = EEXIST,
                                         .device = id,
                                         .detail = "the driver has buffers of another server"});
        }
    }
    return {};
}

}  // namespace ashlar
