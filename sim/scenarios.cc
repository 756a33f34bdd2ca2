#include "sim/scenarios.h"

#include <cerrno>
#include <utility>

#include "kernel/abi.h"

namespace ashlar::sim {

namespace {

namespace abi = kernel::abi;
using Moves = std::vector<Move>;

struct Way {
    DataPath path;
    CommandStyle commands;
    std::uint64_t features;
};

const Way kWays[] = {
    {DataPath::copy, CommandStyle::per_io, 0},
    {DataPath::get_data, CommandStyle::per_io, abi::f_need_get_data},
    {DataPath::user_copy, CommandStyle::per_io, abi::f_user_copy},
    {DataPath::zero_copy, CommandStyle::per_io, abi::f_auto_buf_reg | abi::f_support_zero_copy},
    {DataPath::copy, CommandStyle::batch, abi::f_batch_io},
};

std::uint64_t needs(Recovery recovery) {
    switch (recovery) {
        case Recovery::none: return 0;
        case Recovery::fail: return abi::f_user_recovery_fail_io;
        default: return abi::f_user_recovery;
    }
}

// The server's errnos, as the block device's users see them.
Moves errnos() {
    Moves moves;
    for (const int error : {EIO, ENOSPC, EOPNOTSUPP, ETIMEDOUT, EINVAL, ENOMEM, EPERM, ENODATA,
                            EREMOTEIO, EILSEQ, ENODEV, EOVERFLOW, ENOENT}) {
        moves.push_back({Step::fail, error});
        moves.push_back({Step::write});
        moves.push_back({Step::answers});
        moves.push_back({Step::read});
        moves.push_back({Step::answers});
    }
    moves.push_back({Step::serve});
    return moves;
}

Moves join(Moves first, const Moves& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

const Moves kEnd = {{Step::serve}, {Step::stop}, {Step::stopped}, {Step::answers}, {Step::state}};
const Moves kSuccessor = {{Step::serve},   {Step::recover}, {Step::state},
                          {Step::answers}, {Step::write},   {Step::answers}};

Moves held(int requests) {
    Moves moves = {{Step::write}, {Step::answers}, {Step::hold}};
    for (int i = 0; i < requests; ++i) moves.push_back({i % 2 == 0 ? Step::write : Step::read});
    moves.push_back({Step::answers});
    return moves;
}

void add(std::vector<Scenario>& all, const char* name, Recovery recovery, const Way& way,
         Moves moves) {
    const std::string full =
        std::string(name) + ", recovery " + std::string(ashlar::name(recovery)) + ", " +
        std::string(ashlar::name(way.path)) + ", " + std::string(ashlar::name(way.commands));
    all.push_back({full, recovery, way.path, way.commands, join(std::move(moves), kEnd)});
}

}  // namespace

std::vector<Scenario> scenarios(std::uint64_t offered) {
    std::vector<Scenario> all;
    for (const Way& way : kWays) {
        if ((way.features & ~offered) != 0) continue;
        for (const Recovery recovery :
             {Recovery::none, Recovery::queue, Recovery::reissue, Recovery::fail}) {
            if ((needs(recovery) & ~offered) != 0) continue;
            add(all, "stop with requests in flight", recovery, way,
                join(held(3), {{Step::stop},
                               {Step::stopped},
                               {Step::answers},
                               {Step::serve},
                               {Step::stopped},
                               {Step::answers},
                               {Step::state}}));
            Moves killed = join(
                held(2),
                {{Step::kill}, {Step::state}, {Step::answers}, {Step::write}, {Step::answers}});
            if (recovery != Recovery::none) killed = join(killed, kSuccessor);
            add(all, "killed", recovery, way, killed);
            if (way.path != DataPath::copy) continue;
            Moves full =
                join(held(kScenarioDepth + 2), {{Step::kill}, {Step::state}, {Step::answers}});
            if (recovery != Recovery::none) full = join(full, kSuccessor);
            // With `fail` those that wait for a tag meet the driver before or after it has changed
            // the device's state: EIO or EREMOTEIO.
            if (recovery != Recovery::fail) {
                add(all, "killed with more requests than tags", recovery, way, full);
            }
            add(all, "killed, then stopped", recovery, way,
                join(held(2), {{Step::kill}, {Step::state}, {Step::write}, {Step::answers}}));
            if ((offered & abi::f_quiesce) == 0) continue;
            add(all, "quiesced", recovery, way,
                recovery == Recovery::none
                    ? Moves{{Step::write}, {Step::answers}, {Step::quiesce}, {Step::state}}
                    : join({{Step::write},
                            {Step::answers},
                            {Step::quiesce},
                            {Step::state},
                            {Step::write},
                            {Step::answers},
                            {Step::kill},
                            {Step::state},
                            {Step::answers}},
                           kSuccessor));
            if (recovery == Recovery::none) continue;
            add(all, "quiesced with requests in flight", recovery, way,
                join(join(held(2), {{Step::quiesce},
                                    {Step::answers},
                                    {Step::serve},
                                    {Step::answers},
                                    {Step::kill},
                                    {Step::state},
                                    {Step::answers}}),
                     kSuccessor));
        }
        add(all, "errnos", Recovery::none, way, errnos());
    }
    return all;
}

std::vector<std::string> run(const Scenario& scenario, Lane& lane) {
    std::vector<std::string> said;
    for (const Move& move : scenario.moves) {
        std::string line = lane.carry_out(move);
        if (!line.empty()) said.push_back(std::move(line));
    }
    return said;
}

}  // namespace ashlar::sim
