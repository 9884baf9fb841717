// Runs a fuzz target without libFuzzer: `x_fuzz [--runs=N] [--seed=N] [FILE...]`.
//
// FILEs are run as they are, one input each. Then come N inputs made of them: pieces put together, bytes changed,
// copied and cut; without a FILE, of random bytes. The same seed makes the same inputs, so a failure can be had again.
// With clang, `cmake -DCMAKE_CXX_COMPILER=clang++ -DSLUICE_SANITIZE=address,fuzzer` gives real coverage-guided targets.
#include <algorithm>
#include <charconv>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <exception>
#include <string>
#include <string_view>
#include <vector>

#include "sluice/runtime/filesystem.h"
#include "sluice/runtime/random.h"
#include "sluice/runtime/runtime.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t input_bytes_max = 4096;

void run(const std::string& input) {
  // A copy of exactly its size, so that the address sanitizer sees a read past its end.
  const std::vector<std::uint8_t> bytes(input.begin(), input.end());
  LLVMFuzzerTestOneInput(bytes.data(), bytes.size());
}

std::string random_bytes(sluice::Random& random, std::size_t count) {
  // Half of them small numbers and marks: lengths and delimiters are what parsers stumble over.
  constexpr std::string_view marks("\0\1\2\3\x7f\x80\xff\"\\[] \t\r\n-/", 17);
  std::string bytes(count, '\0');
  for (char& byte : bytes) {
    byte = random.chance(0.5) ? marks[random.below(marks.size())] : static_cast<char>(random.below(256));
  }
  return bytes;
}

std::string mutated(sluice::Random& random, const std::vector<std::string>& seeds) {
  std::string input = seeds[random.below(seeds.size())];
  if (input.size() > input_bytes_max)
    input = input.substr(random.below(input.size() - input_bytes_max), input_bytes_max);
  for (std::uint64_t changes = 1 + random.below(8); changes > 0; --changes) {
    const std::size_t at = random.below(input.size() + 1);
    const std::size_t count = std::min(input.size() - at, random.below(16) + 1);
    switch (random.below(4)) {
      case 0: input.replace(at, count, random_bytes(random, count)); break;
      case 1: input.insert(at, random_bytes(random, random.below(16) + 1)); break;
      case 2: input.erase(at, count); break;
      default: input.insert(at, input.substr(random.below(input.size() + 1), 64)); break;
    }
  }
  return input.substr(0, input_bytes_max);
}

std::uint64_t number_after(std::string_view argument, std::size_t prefix) {
  std::uint64_t number = 0;
  std::from_chars(argument.data() + prefix, argument.data() + argument.size(), number);
  return number;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint64_t runs = 20'000, seed = 1;
  std::vector<std::string> seeds;
  try {
    for (int i = 1; i < argc; ++i) {
      const std::string_view argument = argv[i];
      if (argument.starts_with("--runs=")) {
        runs = number_after(argument, 7);
      } else if (argument.starts_with("--seed=")) {
        seed = number_after(argument, 7);
      } else {
        seeds.push_back(sluice::read_file(sluice::system_runtime().files(), argv[i]));
        run(seeds.back());
      }
    }
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 2;
  }
  sluice::Random random(seed);
  for (std::uint64_t i = 0; i < runs; ++i) {
    const bool fresh = seeds.empty() || random.chance(0.1);
    run(fresh ? random_bytes(random, random.below(i % 64 == 0 ? input_bytes_max : 64)) : mutated(random, seeds));
  }
  std::printf("%zu files and %llu made inputs of seed %llu\n", seeds.size(), static_cast<unsigned long long>(runs),
              static_cast<unsigned long long>(seed));
}
