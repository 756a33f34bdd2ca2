// Which data path and which commands a device uses: what was asked for, what the kernel offers and
// what the backend can. A pure function, so that every combination is tested without a kernel.
#pragma once

#include <cstdint>

#include <ashlar/device.h>
#include <ashlar/result.h>

namespace ashlar {

struct ChoiceRequest {
    DataPath data_path = DataPath::automatic;
    CommandStyle commands = CommandStyle::automatic;
    std::uint16_t threads_per_queue = 1;
    DataAccess access = DataAccess::sees;
    bool copies_writes = false;  // Backend::copied_write_max is not 0
    Recovery recovery = Recovery::none;
    bool zoned = false;
    bool metadata = false;
    bool shares_memory = false;
    bool scans_partitions = true;
    bool unprivileged = false;
    std::uint64_t offered = 0;  // UBLK_F_* of the running kernel
};

struct Choice {
    DeviceChoices choices;       // nothing is `automatic` here
    std::uint64_t features = 0;  // UBLK_F_* to ask for, and to insist on
};

// Errors: EOPNOTSUPP (the kernel has it not; names the release that does, and what there is),
// EINVAL (the backend or the combination cannot).
[[nodiscard]] Result<Choice> choose(const ChoiceRequest& request);

// What a device uses that was made with these features (UBLK_F_*).
// Errors: EINVAL (the backend cannot, or more threads per queue than one, for which it was not
// made).
[[nodiscard]] Result<Choice> choice_of_device(std::uint64_t features, DataAccess access,
                                              std::uint16_t threads_per_queue);
// What it was made with.
[[nodiscard]] Recovery recovery_of(std::uint64_t features) noexcept;

}  // namespace ashlar
