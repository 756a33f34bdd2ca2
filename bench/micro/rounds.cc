// Serves requests of a pretended kernel, for valgrind to count instructions: rounds BATCH ROUNDS
// [plain]. Prints how many requests that were.
#include <cstdlib>
#include <cstring>
#include <iostream>

#include "pretend_kernel.h"

int main(int count, char** words) {
    if (count < 3) {
        std::cerr << "usage: rounds BATCH ROUNDS [plain]\n";
        return 2;
    }
    ashlar::bench::Rounds rounds(
        {.batch = static_cast<unsigned>(std::atoi(words[1])),
         .timed = count < 4 || std::strcmp(words[3], "plain") != 0});
    const auto before = rounds.answered();
    rounds.run(static_cast<unsigned>(std::atoi(words[2])));
    std::cout << rounds.answered() - before << '\n';
    return 0;
}
