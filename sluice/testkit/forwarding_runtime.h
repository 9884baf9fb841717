// A runtime that is another one, but for what is overridden.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "sluice/runtime/runtime.h"

namespace sluice::testing {

/// See the head of this file. `base` must outlive it. Threads: as `base`.
class ForwardingRuntime : public Runtime {
 public:
  explicit ForwardingRuntime(Runtime& base) : base_(base) {}

  Clock& clock() override { return base_.clock(); }
  FileSystem& files() override { return base_.files(); }
  Transport& transport() override { return base_.transport(); }
  std::unique_ptr<Thread> spawn(std::string name, std::function<void()> body) override {
    return base_.spawn(std::move(name), std::move(body));
  }
  std::unique_ptr<Condition> condition() override { return base_.condition(); }
  std::unique_ptr<Executors> executors(std::size_t cores) override { return base_.executors(cores); }
  std::uint64_t random_seed() override { return base_.random_seed(); }
  std::uint64_t process() const override { return base_.process(); }

 private:
  Runtime& base_;
};

}  // namespace sluice::testing
