#include "base/assert.h"

#include <unistd.h>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace ashlar {

// The one place where the library writes to stderr: there is nobody left to return an error to.
[[noreturn]] void assertion_failed(const char* expression, const char* file, int line) noexcept {
    char text[256];
    const int length = std::snprintf(text, sizeof(text), "ashlar: broken invariant: %s (%s:%d)\n",
                                     expression, file, line);
    if (length > 0) {
        const auto count = static_cast<unsigned>(length);
        const auto written =
            write(STDERR_FILENO, text, count < sizeof(text) ? count : sizeof(text) - 1);
        static_cast<void>(written);
    }
    std::abort();
}

}  // namespace ashlar
