// The backends of the table that speak NBD.
#pragma once

#include "cli/backend_table.h"

namespace ashlar::cli {

[[nodiscard]] BackendEntry nbd_entry();
[[nodiscard]] BackendEntry image_entry();

}  // namespace ashlar::cli
