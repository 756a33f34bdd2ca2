// A session as a user of the library writes it. Compiled by a test of its own, as a user compiles:
// without optimisation and with warnings as errors, which the public headers must not give.
#include <ashlar/ashlar.h>

class Later final : public ashlar::Session {
public:
    ashlar::Task<> serve(ashlar::Io& io, const ashlar::Request& request) override {
        co_return co_await all(io, request.length);
    }

private:
    static ashlar::Task<> all(ashlar::Io&, std::uint64_t length) {
        co_return ashlar::IoResult::bytes(length);
    }
};

int main() {
    alignas(std::max_align_t) std::byte frames[4096];
    ashlar::Arena arena(frames, sizeof(frames));
    ashlar::Io io(arena);
    Later session;
    return session.serve(io, {.length = 512}).result().count() == 512 ? 0 : 1;
}
