// The devices of one process: `ashlar serve`.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include <ashlar/device.h>

#include "base/fd.h"
#include "cli/bring_up.h"
#include "cli/held.h"
#include "cli/log.h"
#include "cli/serve_file.h"

namespace ashlar::cli {

// Of a device that the file declares, or did.
struct Member {
    Declaration declaration;
    Log log;
    std::size_t number;  // never another's
    Held held{};         // programs that serve it
    std::shared_ptr<Backend> backend{};
    std::optional<Served> served{};  // none: it could not be brought up, or serves no longer
};

// Thread: the process's first, which starts what ends with its thread.
class DeviceSet {
public:
    // Called again and again while something takes its time.
    using Alive = std::function<void()>;

    // Takes what protects the process; before any other thread exists. Errors: those of making
    // threads; EMFILE when so many devices cannot be had.
    [[nodiscard]] static Result<std::unique_ptr<DeviceSet>> start(const ServeFile& file, Log log,
                                                                  Alive alive);
    // As `file` says by now: new ones are brought up, also those that serve no longer, and those
    // that are gone from it are removed, unless they are in use.
    void reload(const ServeFile& file);
    // Takes all of them away. False when one stays.
    bool remove_all();
    // Takes away those that no next server could have. False when others still serve: only the end
    // of this process lets go of them.
    bool abandon();

    // Becomes readable when devices have ended; then take_ended() is to be called.
    [[nodiscard]] int ended() const { return ends_->descriptor.get(); }
    // False when the threads have ended with their devices: the process cannot go on.
    bool take_ended();

    [[nodiscard]] std::vector<std::unique_ptr<Member>>& members() { return members_; }
    void answer(Member& member);
    [[nodiscard]] std::size_t serving() const;

private:
    // Told by queue threads, which may outlive this object.
    struct Ends {
        std::mutex mutex;
        std::vector<std::size_t> numbers;  // of members
        Fd descriptor;
    };
    // What an earlier process left of a device of the file.
    struct Left {
        DeviceInfo info;
        ServerState state;
    };

    DeviceSet(ServeFile file, Log log, Alive alive)
        : file_(std::move(file)), log_(std::move(log)), alive_(std::move(alive)) {}

    Member& add(const Declaration& declaration);
    void open_backend(Member& member);
    void open_backends(const std::vector<Member*>& members, bool at_start);
    void bring_up_all(const std::vector<Member*>& members);
    void bring_up_one(Member& member, const std::optional<Left>& left, bool id_is_chosen);
    bool make_room(Member& member, const Left& left);
    bool take_down(Member& member);
    bool take_down_all(const std::function<bool(const Member&)>& chosen);
    void remove_undeclared(const ServeFile& file);
    void follow_size(Member& member, const Declaration& now);
    void compare(Member& member, const Declaration& now);
    [[nodiscard]] std::vector<Left> find_left() const;
    void for_each(const std::vector<Member*>& members, const std::function<void(Member&)>& call);

    ServeFile file_;
    Log log_;
    Alive alive_;
    Protections protections_;
    std::shared_ptr<QueueThreads> threads_;
    std::shared_ptr<Ends> ends_ = std::make_shared<Ends>();
    std::size_t next_number_ = 0;
    std::vector<std::unique_ptr<Member>> members_;
};

}  // namespace ashlar::cli
