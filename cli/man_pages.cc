#include <fmt/format.h>
#include <algorithm>
#include <fstream>
#include <iterator>
#include <utility>

#include "cli/backend_table.h"
#include "cli/pages.h"

namespace ashlar::cli {
namespace {

// Text as roff shows it: backslashes and what a line may not begin with.
std::string roff(std::string_view text) {
    std::string result;
    bool begins = true;
    for (const char c : text) {
        if (begins && (c == '.' || c == '\'')) result += "\\&";
        if (c == '\\') {
            result += "\\e";
        } else if (c == '-') {
            result += "\\-";
        } else {
            result += c;
        }
        begins = c == '\n';
    }
    return result;
}

std::string upper(std::string text) {
    std::ranges::transform(text, text.begin(), [](char c) {
        return c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    });
    return text;
}

std::string option_names(const CLI::Option& option) {
    std::string names;
    for (const std::string& name : option.get_snames()) names += fmt::format(", \\-{}", name);
    for (const std::string& name : option.get_lnames())
        names += fmt::format(", \\-\\-{}", roff(name));
    return names.substr(2);
}

std::string value_of(const CLI::Option& option) {
    if (option.get_items_expected_max() == 0) return {};
    return fmt::format(" \\fI{}\\fR", roff(option.get_type_name()));
}

std::string list_options(const CLI::App& app) {
    std::string text;
    for (const CLI::Option* option : shown_options(app)) {
        if (option->nonpositional()) {
            text += fmt::format(".TP\n\\fB{}\\fR{}\n{}.\n", option_names(*option),
                                value_of(*option), roff(option->get_description()));
        } else {
            text += fmt::format(".TP\n\\fI{}\\fR\n{}.\n", roff(option->get_type_name()),
                                roff(option->get_description()));
        }
    }
    return text;
}

std::string synopsis(const CLI::App& app, const std::string& called) {
    std::string line = fmt::format(".B {}\n", roff(called));
    if (!shown_commands(app).empty()) return line + ".I COMMAND\n\\&...\n";
    for (const CLI::Option* option : shown_options(app)) {
        if (option->nonpositional()) continue;
        line += fmt::format(".I {}{}\n", roff(option->get_type_name()),
                            option->get_items_expected_max() > 1 ? "..." : "");
    }
    return line + "[\\fIOPTION\\fR]...\n";
}

// What a footer says, as it stands.
std::string verbatim(const std::string& text) { return fmt::format(".nf\n{}\n.fi\n", roff(text)); }

std::string prose_of(const std::string& directory, const std::string& file) {
    std::ifstream in(directory + "/" + file);
    return {std::istreambuf_iterator<char>(in), {}};
}

struct Writer {
    std::string prose;
    std::string date;

    [[nodiscard]] Page page(const std::string& name, int section, const std::string& summary,
                            const std::string& body) const {
        const std::string file = fmt::format("{}.{}", name, section);
        std::string text = fmt::format(
            ".TH {} {} {} \"Ashlar {}\" \"Ashlar\"\n.SH NAME\n{} \\- {}\n{}", upper(roff(name)),
            section, date, ASHLAR_VERSION, roff(name), roff(summary), body);
        text += prose_of(prose, file);
        text += ".SH SEE ALSO\n";
        if (name != "ashlar") text += ".BR ashlar (8),\n";
        text += ".BR ashlar\\-add (8),\n.BR ashlar.toml (5),\n.BR losetup (8)\n";
        return {.file = file, .text = std::move(text)};
    }
};

Page page_of_command(const Writer& writer, const CLI::App& app, const std::string& called) {
    std::string name = called;
    std::ranges::replace(name, ' ', '-');
    std::string body = ".SH SYNOPSIS\n" + synopsis(app, called);
    for (const CLI::App* sub : shown_commands(app))
        body += ".br\n" + synopsis(*sub, called + " " + sub->get_name());
    body += fmt::format(".SH DESCRIPTION\n{}.\n.SH OPTIONS\n{}", roff(app.get_description()),
                        list_options(app));
    for (const CLI::App* sub : shown_commands(app)) {
        body += fmt::format(".SS {}\n{}.\n{}", roff(sub->get_name()), roff(sub->get_description()),
                            list_options(*sub));
    }
    if (!app.get_footer().empty()) body += ".SH NOTES\n" + verbatim(app.get_footer());
    return writer.page(name, 8, app.get_description(), body);
}

Page page_of_add(const Writer& writer, const CLI::App& add) {
    std::string body =
        ".SH SYNOPSIS\n.B ashlar add\n.I TYPE\n[\\fIOPTION\\fR]...\n.SH DESCRIPTION\nMakes a block "
        "device and prints its path. Each type has a page with what is its own; the options "
        "below are those of every device.\n.SH TYPES\n";
    const auto types = shown_commands(add);
    for (const CLI::App* type : types) {
        body += fmt::format(".TP\n.BR ashlar\\-{} (7)\n{}.\n", roff(type->get_name()),
                            roff(type->get_description()));
    }
    std::string common;
    for (const CLI::Option* option : shown_options(*types.front())) {
        const std::string& group = option->get_group();
        if (group != "Device" && group != "Command") continue;
        common += fmt::format(".TP\n\\fB{}\\fR{}\n{}.\n", option_names(*option), value_of(*option),
                              roff(option->get_description()));
    }
    body += ".SH OPTIONS\n" + common + ".SH SPECS AND LAYERS\n" + verbatim(add.get_footer());
    return writer.page("ashlar-add", 8, add.get_description(), body);
}

Page page_of_type(const Writer& writer, const CLI::App& type) {
    const std::string called = "ashlar add " + type.get_name();
    std::string own;
    for (const CLI::Option* option : shown_options(type)) {
        if (option->get_group() == "Device" || option->get_group() == "Command") continue;
        if (option->nonpositional()) {
            own += fmt::format(".TP\n\\fB{}\\fR{}\n{}.\n", option_names(*option), value_of(*option),
                               roff(option->get_description()));
        } else {
            own += fmt::format(".TP\n\\fI{}\\fR\n{}.\n", roff(option->get_type_name()),
                               roff(option->get_description()));
        }
    }
    const std::string body = fmt::format(
        ".SH SYNOPSIS\n{}.SH DESCRIPTION\n{}.\n.SH OPTIONS\nThose of every device are in\n.BR "
        "ashlar\\-add (8).\n{}.SH EXAMPLES\n{}",
        synopsis(type, called), roff(type.get_description()), own, verbatim(type.get_footer()));
    return writer.page("ashlar-" + type.get_name(), 7, type.get_description(), body);
}

Page page_of_layers(const Writer& writer) {
    std::string body =
        ".SH SYNOPSIS\n.B ashlar add\n.I TYPE\n\\&... \\fB\\-\\-layer\\fR "
        "\\fINAME\\fR:\\fIPART\\fR,...\n.SH DESCRIPTION\nA layer changes what the backend below "
        "it does. The first one is the nearest to the backend.\n";
    for (const BackendEntry& entry : layer_entries()) {
        body += fmt::format(".SH {}\n{}.\n", upper(std::string(entry.info.name)),
                            roff(entry.info.help));
        if (entry.info.argument == Argument::path) {
            body += fmt::format(".TP\n.I PATH\n{}.\n", roff(entry.info.argument_help));
        }
        for (const OptionInfo& option : entry.info.options) {
            body += fmt::format(".TP\n.B {}{}\n{}.\n", roff(option.key),
                                option.value.empty() ? "" : "=" + roff(option.value),
                                roff(option.help));
        }
        for (const std::string_view example : entry.info.examples) {
            body += ".PP\n" + verbatim("ashlar add " + std::string(example));
        }
    }
    return writer.page("ashlar-layers", 7, "what lies between a disk and its backend", body);
}

Page page_of_all(const Writer& writer, const CLI::App& app) {
    std::string body =
        ".SH SYNOPSIS\n.B ashlar\n.I COMMAND\n[\\fIOPTION\\fR]...\n.SH DESCRIPTION\n" +
        roff(app.get_description()) + ", by the kernel's ublk driver.\n";
    std::vector<std::string> groups;
    for (const CLI::App* sub : shown_commands(app)) {
        if (std::ranges::find(groups, sub->get_group()) == groups.end()) {
            groups.push_back(sub->get_group());
        }
    }
    body += ".SH COMMANDS\n";
    for (const std::string& group : groups) {
        body += fmt::format(".SS {}\n", roff(group));
        for (const CLI::App* sub : shown_commands(app)) {
            if (sub->get_group() != group) continue;
            body += fmt::format(".TP\n.BR ashlar\\-{} (8)\n{}.\n", roff(sub->get_name()),
                                roff(sub->get_description()));
        }
    }
    body += ".SH OPTIONS\n" + list_options(app) + ".SH NOTES\n" + verbatim(app.get_footer());
    return writer.page("ashlar", 8, app.get_description(), body);
}

}  // namespace

std::vector<const CLI::App*> shown_commands(const CLI::App& app) {
    return app.get_subcommands([](const CLI::App* sub) { return !sub->get_group().empty(); });
}

std::vector<const CLI::Option*> shown_options(const CLI::App& app) {
    return app.get_options([](const CLI::Option* option) { return !option->get_group().empty(); });
}

std::vector<Page> man_pages(const CLI::App& app, const std::string& prose, std::string_view date) {
    const Writer writer{.prose = prose, .date = std::string(date)};
    std::vector<Page> pages;
    pages.push_back(page_of_all(writer, app));
    for (const CLI::App* sub : shown_commands(app)) {
        if (sub->get_name() != "add") {
            pages.push_back(page_of_command(writer, *sub, "ashlar " + sub->get_name()));
            continue;
        }
        pages.push_back(page_of_add(writer, *sub));
        for (const CLI::App* type : shown_commands(*sub))
            pages.push_back(page_of_type(writer, *type));
    }
    pages.push_back(page_of_layers(writer));
    const std::string toml = prose_of(prose, "ashlar.toml.5");
    if (!toml.empty()) {
        pages.push_back({.file = "ashlar.toml.5",
                         .text = fmt::format(".TH ASHLAR.TOML 5 {} \"Ashlar {}\" \"Ashlar\"\n{}",
                                             date, ASHLAR_VERSION, toml)});
    }
    return pages;
}

}  // namespace ashlar::cli
