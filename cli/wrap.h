// How backends are opened that lie on another one.
#pragma once

#include <memory>
#include <utility>
#include <vector>

#include "cli/backend_table.h"

namespace ashlar::cli {

// What opens a layer on whatever opens the backend below it.
template <class Options>
OpenBackend wrap(Result<std::shared_ptr<Backend>> (*open)(std::shared_ptr<Backend>, const Options&),
                 Options options, const std::vector<OpenBackend>& below) {
    return [open, options = std::move(options),
            open_inner = below.front()](const Report& report) -> Result<std::shared_ptr<Backend>> {
        auto inner = open_inner(report);
        if (!inner) return inner;
        return open(std::move(*inner), options);
    };
}

}  // namespace ashlar::cli
