#include "core/near_cpus.h"

#include <algorithm>
#include <fstream>
#include <utility>

#include "base/cpu_list.h"

namespace ashlar {

std::vector<int> cpus_near(int cpu, const std::string& root) {
    std::vector<int> nearest;
    const std::string caches = root + "/cpu" + std::to_string(cpu) + "/cache/index";
    for (int index = 0;; ++index) {
        std::ifstream file(caches + std::to_string(index) + "/shared_cpu_list");
        std::string line;
        if (!std::getline(file, line)) break;
        auto cpus = parse_cpu_list(line);
        if (cpus && cpus->size() > nearest.size() && std::ranges::find(*cpus, cpu) != cpus->end()) {
            nearest = std::move(*cpus);
        }
    }
    if (nearest.empty()) nearest.push_back(cpu);
    std::ranges::sort(nearest);
    return nearest;
}

}  // namespace ashlar
