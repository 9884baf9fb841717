#include "sluice/core/shared_values.h"

#include <map>
#include <mutex>
#include <unordered_map>
#include <utility>

#include "sluice/core/closure.h"
#include "sluice/runtime/errors.h"

namespace sluice::detail {
namespace {

struct Shared {
  struct Value {
    std::shared_ptr<const void> value;
    SharedCodec codec;
  };
  std::mutex mutex;
  std::uint64_t next = 0;
  std::unordered_map<std::uint64_t, Value> values;
  std::function<std::string(std::uint64_t)> loader;
  std::map<std::pair<const void*, std::string>, std::shared_ptr<void>> objects;
};
Shared& shared() {
  static Shared& instance = *new Shared;
  return instance;
}

using Decode = std::shared_ptr<const void> (*)(Decoder&);

Error unknown(std::uint64_t id) {
  return Error(Code::corrupt_data, {.why = "broadcast value " + std::to_string(id) + " is not in this process"});
}

}  // namespace

std::uint64_t share_value(std::shared_ptr<const void> value, const SharedCodec& codec) {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  all.values.emplace(++all.next, Shared::Value{std::move(value), codec});
  return all.next;
}

const void* shared_value(std::uint64_t id) {
  Shared& all = shared();
  std::function<std::string(std::uint64_t)> loader;
  {
    const std::lock_guard lock(all.mutex);
    const auto found = all.values.find(id);
    if (found != all.values.end()) return found->second.value.get();
    loader = all.loader;
  }
  if (!loader) throw unknown(id);
  // Without the lock: the driver has to be asked. Of two that do so at once the first stays.
  const std::string bytes = loader(id);
  Decoder in(bytes);
  const auto decode = reinterpret_cast<Decode>(const_cast<void*>(decode_address(typeid(Decode), in)));
  std::shared_ptr<const void> value = decode(in);
  in.expect_end();
  const std::lock_guard lock(all.mutex);
  return all.values.emplace(id, Shared::Value{std::move(value), {}}).first->second.value.get();
}

std::string encode_shared_value(std::uint64_t id) {
  Shared::Value value;
  {
    Shared& all = shared();
    const std::lock_guard lock(all.mutex);
    const auto found = all.values.find(id);
    if (found == all.values.end()) throw unknown(id);
    value = found->second;
  }
  if (value.codec.encode == nullptr) {
    throw Error(Code::captures_pointer,
                {.why = "a broadcast value whose type has no codec is used in a task of another process"});
  }
  Encoder out;
  encode_address(typeid(Decode), reinterpret_cast<const void*>(value.codec.decode), out);
  value.codec.encode(value.value.get(), out);
  return out.take();
}

void set_shared_value_loader(std::function<std::string(std::uint64_t)> loader) {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  all.loader = std::move(loader);
}

void forget_shared_values() {
  Shared& all = shared();
  const std::lock_guard lock(all.mutex);
  all.values.clear();
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
