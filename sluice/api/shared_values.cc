#include "sluice/api/shared_values.h"

#include <map>
#include <mutex>
#include <string>
#include <unordered_map>

namespace sluice::detail {
namespace {

struct Shared {
  std::mutex mutex;
  std::uint64_t next = 0;
  std::unordered_map<std::uint64_t, std::shared_ptr<const void>> values;
  std::map<std::pair<const void*, std::string>, std::shared_ptr<void>> objects;
};
Shared& shared() {
  static Shared& instance = *new Shared;
  return instance;
}

}  // namespace

std::uint64_t share_value(std::shared_ptr<const void> value) {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  all.values.emplace(++all.next, std::move(value));
  return all.next;
}

const void* shared_value(std::uint64_t id) {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  const auto found = all.values.find(id);
  if (found == all.values.end()) {
    throw Error(Code::corrupt_data, {.why = "broadcast value " + std::to_string(id) + " is not in this process"});
  }
  return found->second.get();
}

void* per_process_object(const void* factory_type, std::string_view captures,
                         const std::function<std::shared_ptr<void>()>& make) {
  Shared& all = shared();
  std::pair<const void*, std::string> key(factory_type, captures);
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.objects.find(key);
    if (found != all.objects.end()) return found->second.get();
  }
  // Made outside the lock, since factories may take long or block; of two made at once the first stays.
  std::shared_ptr<void> made = make();
  const std::lock_guard lock(all.mutex);
  return all.objects.emplace(std::move(key), std::move(made)).first->second.get();
}

}  // namespace sluice::detail
