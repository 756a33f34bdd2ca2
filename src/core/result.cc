#include <ashlar/result.h>

#include <cstring>

namespace ashlar {

std::string Error::message() const {
    std::string text = operation;
    if (device) text += " ublk" + std::to_string(*device);
    text += ": ";
    if (!detail.empty()) text += detail + " ";
    const char* name = strerrorname_np(code);
    text += "(";
    text += name != nullptr ? name : "errno " + std::to_string(code);
    text += ": ";
    text += strerror(code);
    text += ")";
    if (!hint.empty()) text += "; " + hint;
    return text;
}

}  // namespace ashlar
