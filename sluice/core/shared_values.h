// Values that functions in tasks find by number, and objects that are made once a process: what is behind Broadcast and
// per_process (api/shared_values.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "sluice/core/codec.h"

namespace sluice::detail {

/// How a shared value travels to another process. Null where its type has no codec.
struct SharedCodec {
  void (*encode)(const void* value, Encoder& out) = nullptr;
  std::shared_ptr<const void> (*decode)(Decoder& in) = nullptr;
};

/// The number of the value, in this process and in the executors that ask for it. It lives until the process ends.
std::uint64_t share_value(std::shared_ptr<const void> value, const SharedCodec& codec);
/// Errors: SLU-301 there is none of that number; what the loader throws.
const void* shared_value(std::uint64_t id);
/// The value as it travels, for the loader of another process. Errors: SLU-301 as above; SLU-110 it has no codec.
std::string encode_shared_value(std::uint64_t id);
/// In an executor: gets the bytes of values that are not in this process. Null: there is nobody to ask.
void set_shared_value_loader(std::function<std::string(std::uint64_t id)> loader);

/// In an executor: another driver's values follow, under the same numbers. No task runs.
void forget_shared_values();

/// The object made for these captures of a factory, by `make` if it is the first.
void* per_process_object(const void* factory_type, std::string_view captures,
                         const std::function<std::shared_ptr<void>()>& make);

}  // namespace sluice::detail
