// The one suite that every backend passes. It drives sessions as a queue does, on a real ring but
// without the driver, and compares what they say with a model: a vector of bytes.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include <ashlar/backend.h>

namespace ashlar::test {

struct Conformance {
    // A fresh disk whose content is all zeroes; 64 KiB or more, at most 256 MiB.
    std::function<Result<std::shared_ptr<Backend>>()> open;
    std::uint64_t seed = 0;      // 0: ASHLAR_TEST_SEED of the environment, else a fixed one
    unsigned operations = 1500;  // random ones, of one session
    unsigned threads = 4;        // sessions at once, on disjoint ranges
    std::chrono::milliseconds patience{30'000};  // how long one request may take
};

// Empty when the backend conforms. Else the first violation in one line, with the seed with which
// it happens again. Knows nothing of gtest, so that a test can show that it finds faults.
[[nodiscard]] std::string check_conformance(const Conformance& conformance);

}  // namespace ashlar::test
