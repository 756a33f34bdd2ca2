#include "base/new_file.h"

#include <fcntl.h>
#include <unistd.h>
#include <cerrno>

#include "base/fd.h"

namespace ashlar {

NewFile::~NewFile() {
    if (!path_.empty()) unlink(path_.c_str());
}

int make_durable(int fd, const std::string& path) {
    const std::size_t slash = path.rfind('/');
    std::string directory = ".";
    if (slash != std::string::npos) directory = path.substr(0, slash + 1);
    const Fd parent(open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
    if (!parent.valid() || fsync(fd) != 0) return errno;
    // EINVAL: a file system that has nothing to do.
    return fsync(parent.get()) == 0 || errno == EINVAL ? 0 : errno;
}

}  // namespace ashlar
