// Whom a URI says to believe.
#pragma once

#include <string>

#include <ashlar/result.h>

namespace ashlar::nbd {

// Refuses TLS without an authority or keys: libnbd would believe any server then. What else a URI
// may be wrong in, libnbd finds. Errors: EINVAL, those of reading the authority's certificate.
[[nodiscard]] Result<void> check_trust(const std::string& uri);

}  // namespace ashlar::nbd
