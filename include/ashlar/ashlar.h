// Everything a server needs.
#pragma once

#include <ashlar/backend.h>
#include <ashlar/backends.h>
#include <ashlar/control.h>
#include <ashlar/device.h>
#include <ashlar/metrics.h>
#include <ashlar/result.h>
#include <ashlar/task.h>
#include <ashlar/types.h>
