// ashlar top: all devices at work, in a terminal.
#include <langinfo.h>
#include <ncurses.h>
#include <unistd.h>
#include <algorithm>
#include <chrono>
#include <clocale>
#include <csignal>
#include <cstring>
#include <memory>
#include <string>
#include <utility>

#include "cli/ask_metrics.h"
#include "cli/command.h"
#include "cli/device_report.h"
#include "cli/top_view.h"

namespace ashlar::cli {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kSecondLook{250};

// Begun and ended: what the terminal was is there again, whatever ends it.
class Terminal {
public:
    Terminal() {
        initscr();
        cbreak();
        noecho();
        keypad(stdscr, TRUE);
        curs_set(0);
    }
    Terminal(const Terminal&) = delete;
    Terminal& operator=(const Terminal&) = delete;
    ~Terminal() { endwin(); }

    static void draw(const TopView::Screen& screen) {
        erase();
        for (int line = 0; line < static_cast<int>(screen.lines.size()); ++line) {
            const bool marked = line == screen.picked || line == 1;
            if (marked) attron(line == 1 ? A_BOLD : A_REVERSE);
            mvaddstr(line, 0, screen.lines[static_cast<std::size_t>(line)].c_str());
            if (marked) attroff(line == 1 ? A_BOLD : A_REVERSE);
        }
        refresh();
    }
};

Result<std::vector<TopSample>> look(Control& control) {
    const auto devices = control.list();
    if (!devices) return std::unexpected(devices.error());
    std::vector<TopSample> all;
    for (const DeviceInfo& info : *devices) {
        const auto report = report_device(control, info);
        if (!report) continue;  // removed meanwhile
        TopSample sample{.info = info,
                         .type = report->type,
                         .size = report->params.geometry.size,
                         .metrics = {}};
        if (!report->type.empty()) {
            if (auto asked = ask_metrics(info)) sample.metrics = std::move(*asked);
        }
        all.push_back(std::move(sample));
    }
    return all;
}

// False: enough.
bool handle_key(int key, TopView& view) {
    switch (key) {
        case 'q':
        case 'Q': return false;
        case 's': view.next_order(); break;
        case 'r': view.reverse(); break;
        case KEY_DOWN:
        case 'j': view.pick_next(); break;
        case KEY_UP:
        case 'k': view.pick_last(); break;
        default: break;
    }
    return true;
}

Result<void> show_until_q(Control& control, double interval) {
    TopView view(std::strcmp(nl_langinfo(CODESET), "UTF-8") == 0);
    const Terminal terminal;
    const auto step =
        std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(interval));
    auto next = Clock::now();
    // The second look follows soon: there is nothing to see before.
    auto wait = std::min<Clock::duration>(step, kSecondLook);
    for (;;) {
        if (Clock::now() >= next) {
            auto samples = look(control);
            if (!samples) return std::unexpected(samples.error());
            view.update(*samples);
            next = Clock::now() + std::exchange(wait, step);
        }
        Terminal::draw(view.render(COLS, LINES));
        const auto left =
            std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
        timeout(static_cast<int>(left < 0 ? 0 : left + 1));
        const int key = getch();
        if (key != ERR && !handle_key(key, view)) return {};
    }
}

int top(double interval) {
    if (isatty(STDIN_FILENO) == 0 || isatty(STDOUT_FILENO) == 0) {
        complain("top needs a terminal; for a file or a pipe use 'ashlar stats N --interval S'");
        return kUsage;
    }
    std::setlocale(LC_ALL, "");
    if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
    auto control = Control::open();
    if (!control) return fail(control.error());
    const auto shown = show_until_q(*control, interval);
    return shown ? kSuccess : fail(shown.error());
}

}  // namespace

void top_command(CLI::App& app, Action& action) {
    CLI::App& top_app = *app.add_subcommand("top", "Watch all devices in a terminal");
    auto interval = std::make_shared<double>(1);
    top_app.add_option("--interval", *interval, "Seconds between two looks; default: 1")
        ->type_name("S")
        ->check(CLI::Range(0.1, 3600.0));
    top_app.footer(
        "Keys: q ends, s sorts by the next column, r turns the order round, up and down pick a\n"
        "device, which is shown in full below.\n"
        "\nExample:\n  ashlar top --interval 0.5");
    top_app.callback([interval, &action] { action = [interval] { return top(*interval); }; });
}

}  // namespace ashlar::cli
