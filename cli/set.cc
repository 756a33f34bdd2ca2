// ashlar set N: changes how a device is served, while it is.
#include <fmt/format.h>
#include <memory>
#include <string>

#include "cli/command.h"
#include "cli/cpu_list.h"
#include "cli/log.h"
#include "cli/server_state.h"

namespace ashlar::cli {
namespace {

struct SetOptions {
    std::string device;
    std::string cpus;
    std::string queue_cpus;
    std::string log_level;
};

// Empty: all is well.
std::string find_mistake(const SetOptions& options) {
    if (options.cpus.empty() && options.queue_cpus.empty() && options.log_level.empty()) {
        return "set what? give --cpus, --queue-cpus or --log-level";
    }
    if (!options.cpus.empty() && !options.queue_cpus.empty()) {
        return "--cpus and --queue-cpus say the same in two ways; give one";
    }
    if (!options.cpus.empty() && options.cpus != "auto") {
        if (const auto list = parse_cpus(options.cpus); !list) return "--cpus: " + list.error();
    }
    if (!options.queue_cpus.empty()) {
        if (const auto lists = parse_queue_cpus(options.queue_cpus); !lists) {
            return "--queue-cpus: " + lists.error();
        }
    }
    if (!options.log_level.empty() && !level_of(options.log_level)) {
        return fmt::format("--log-level is '{}'; known are info, warning and error",
                           options.log_level);
    }
    return {};
}

int run_set(const SetOptions& options) {
    if (const std::string mistake = find_mistake(options); !mistake.empty()) {
        complain(mistake);
        return kUsage;
    }
    const auto id = named_device(options.device);
    if (!id) return kUsage;
    const Fd lock = lock_server(*id);
    nlohmann::json request = {{"request", "set"}};
    if (options.cpus == "auto") {
        request["cpus"] = {{"lists", ""}};
    } else if (!options.cpus.empty()) {
        request["cpus"] = {{"key", "cpus"}, {"lists", options.cpus}};
    } else if (!options.queue_cpus.empty()) {
        request["cpus"] = {{"key", "queue-cpus"}, {"lists", options.queue_cpus}};
    }
    if (!options.log_level.empty()) request["log_level"] = options.log_level;
    return tell_server(*id, request);
}

}  // namespace

void set_command(CLI::App& app, Action& action) {
    CLI::App& set = *app.add_subcommand("set", "Change how a device is served, while it is");
    auto options = std::make_shared<SetOptions>();
    set.add_option("device", options->device, "Its number or path")->type_name("N")->required();
    set.add_option("--cpus", options->cpus,
                   "CPUs its threads run on, such as 0-3,8; auto: those of its queues")
        ->type_name("LIST");
    set.add_option("--queue-cpus", options->queue_cpus, "The same queue by queue, such as 0/1/2-3")
        ->type_name("LIST/LIST");
    set.add_option("--log-level", options->log_level,
                   "Write no less than info, warning or error, until its server ends")
        ->type_name("LEVEL");
    set.footer("Examples:\n  ashlar set 0 --cpus 2-3\n  ashlar set 0 --log-level warning");
    set.callback([options, &action] { action = [options] { return run_set(*options); }; });
}

}  // namespace ashlar::cli
