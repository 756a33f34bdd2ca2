// What the commands share: exit statuses, messages, and the shape of one command.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include <ashlar/control.h>
#include <ashlar/result.h>

namespace ashlar::cli {

constexpr int kSuccess = 0;
constexpr int kFailure = 1;
constexpr int kUsage = 2;

// "ashlar: message" on stderr, one line.
void complain(std::string_view message);
// The same for an Error; answers kFailure.
int fail(const Error& error);

// The N of "0", "ublkb0", "/dev/ublkb0", "ublkc0" or "/dev/ublkc0".
[[nodiscard]] std::optional<DeviceId> parse_device(std::string_view text);
// The same for what a person typed: complains if it is none.
[[nodiscard]] std::optional<DeviceId> named_device(std::string_view text);

// Each adds its subcommand to the application. What it parsed runs afterwards: *action is set to
// it and gives the exit status.
using Action = std::function<int()>;
void add_command(CLI::App& app, Action& action);
void list_command(CLI::App& app, Action& action);
void show_command(CLI::App& app, Action& action);
void stats_command(CLI::App& app, Action& action);
void top_command(CLI::App& app, Action& action);
void export_command(CLI::App& app, Action& action);
void del_command(CLI::App& app, Action& action);
void resize_command(CLI::App& app, Action& action);
void set_command(CLI::App& app, Action& action);
void recover_command(CLI::App& app, Action& action);
void upgrade_command(CLI::App& app, Action& action);
void quiesce_command(CLI::App& app, Action& action);
void stop_command(CLI::App& app, Action& action);
void features_command(CLI::App& app, Action& action);
void doctor_command(CLI::App& app, Action& action);
void replay_command(CLI::App& app, Action& action);
void nbd_command(CLI::App& app, Action& action);
void serve_command(CLI::App& app, Action& action);
void generate_command(CLI::App& app, Action& action);
void udev_owner_command(CLI::App& app, Action& action);

}  // namespace ashlar::cli
