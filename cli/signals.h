// Signals of a process that serves: read where it waits, handled nowhere.
#pragma once

#include <ashlar/result.h>
#include <initializer_list>

#include "base/fd.h"

namespace ashlar::cli {

// A descriptor from which they are read, which never blocks. Before the process has other threads:
// these signals interrupt it no more. Nor does a pipe without a reader.
[[nodiscard]] Result<Fd> take_signals(std::initializer_list<int> numbers);

}  // namespace ashlar::cli
