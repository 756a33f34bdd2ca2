// The log layer's file. Any bytes: the reader ends, and what it gives and its gaps are the whole
// file. Bytes made into records with sound sums: the replayer ends, writes nothing outside the
// disk, and what it adds of unflushed writes it takes away again.
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include <ashlar/log_replayer.h>

#include "base/fd.h"
#include "layers/log/crc32c.h"
#include "layers/log/reader.h"

namespace {

using namespace ashlar;
using namespace ashlar::layers;

constexpr std::uint64_t kDisk = 64 * 512;

void require(bool condition) {
    if (!condition) std::abort();
}

std::string path_of(const Fd& file) { return "/proc/self/fd/" + std::to_string(file.get()); }

Fd make_file(std::span<const std::byte> bytes) {
    Fd file(memfd_create("fuzz", MFD_CLOEXEC));
    require(write(file.get(), bytes.data(), bytes.size()) == static_cast<ssize_t>(bytes.size()));
    return file;
}

void check_reader(std::span<const std::byte> bytes) {
    const Fd file = make_file(bytes);
    auto reader = LogReader::open(path_of(file));
    require(reader.has_value() || !reader.error().detail.empty());
    if (!reader) return;
    std::uint64_t seen = kLogUnit;
    std::uint64_t end = kLogUnit;
    while (const auto record = reader->next().value()) {
        require(record->place >= end && record->end() <= bytes.size());
        end = record->end();
        seen += end - record->place;
        const LogBytes again = encode(*record);
        require(std::memcmp(again.data(), bytes.data() + record->place, kLogUnit) == 0);
    }
    for (const Range& gap : reader->gaps()) seen += gap.length;
    require(seen == bytes.size());
}

// Every 8 bytes are a record: its kind, flags, an error, where and how much, and to which record
// it is the answer.
std::vector<std::byte> make_log(std::span<const std::uint8_t> data) {
    const LogBytes head = encode(LogHead{.disk_size = kDisk});
    std::vector<std::byte> log(head.begin(), head.end());
    std::vector<std::uint64_t> places = {kLogUnit};
    for (; data.size() >= 8; data = data.subspan(8)) {
        LogRecord record{.kind = LogRecord::Kind{static_cast<std::uint8_t>(data[0] % 7)},
                         .fua = (data[1] & 1) != 0,
                         .place = log.size()};
        if (record.kind == LogRecord::Kind::completion) {
            record.request = places[data[2] % places.size()];
            record.error = data[3] & 1;
        } else if (record.kind != LogRecord::Kind::flush) {
            record.range = {data[2] % 66U * 512U, data[3] % 66U * 512U};
        }
        const std::vector<std::byte> content(record.data_length(), std::byte{data[4]});
        record.data_sum = crc32c(content) ^ (data[5] == 1 ? 1U : 0U);
        places.push_back(record.place);
        const LogBytes bytes = encode(record);
        log.insert(log.end(), bytes.begin(), bytes.end());
        log.insert(log.end(), content.begin(), content.end());
        if (data[6] == 1) log.resize(log.size() + 64);
    }
    return log;
}

std::string content_of(const Fd& file) {
    struct stat status{};
    require(fstat(file.get(), &status) == 0);
    std::string content(static_cast<std::size_t>(status.st_size), '\0');
    require(pread(file.get(), content.data(), content.size(), 0) == status.st_size);
    return content;
}

void check_replayer(std::span<const std::byte> bytes) {
    const Fd log = make_file(bytes);
    const Fd image = make_file({});
    auto replayer = LogReplayer::open({.log = path_of(log), .image = path_of(image)});
    require(replayer.has_value());
    std::uint64_t sequence = 0;
    std::uint64_t until = 0;
    while (true) {
        const auto boundary = replayer->advance();
        if (!boundary) return;  // damaged
        if (!*boundary) break;
        require((*boundary)->sequence > sequence && (*boundary)->until > (*boundary)->sequence);
        require((*boundary)->sequence <= bytes.size());
        require(until == 0 || (*boundary)->sequence == until);
        sequence = (*boundary)->sequence;
        until = (*boundary)->until;
        const std::string durable = content_of(image);
        require(durable.size() == kDisk);
        require(replayer->add_unflushed(sequence).has_value());
        const std::string some = content_of(image);
        require(replayer->add_unflushed(sequence).has_value());
        require(content_of(image) == some);
    }
    const std::string durable = content_of(image);
    const Fd disk = make_file(std::as_bytes(std::span<const char>(durable)));
    const auto impossible = replayer->find_impossible(path_of(disk));
    require(impossible.has_value() && !*impossible);
    require(replayer->complete().has_value());
    require(content_of(image).size() == kDisk);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::span bytes(data, size);
    check_reader(std::as_bytes(bytes));
    const auto log = make_log(bytes.first(std::min<std::size_t>(size, 1024)));
    check_reader(log);
    check_replayer(log);
    return 0;
}
