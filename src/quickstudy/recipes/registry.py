"""The families of tasks and the methods by name. Imports nothing heavy."""

from quickstudy.recipes.methods import gradient, inner_rl, learned_rl, metric, mktn, mml, mpo, policy_gradient, rl2
from quickstudy.recipes.methods import streams, tabular
from quickstudy.recipes.problem import MethodConfig, TasksConfig
from quickstudy.recipes.tasks import bandits, clinc150, control, mazes, mdps, navigation, omniglot, sinusoid, xland

TASKS: dict[str, type[TasksConfig]] = {
    "sinusoid": sinusoid.Sinusoid,
    "omniglot": omniglot.Omniglot,
    "clinc150": clinc150.Clinc150,
    "navigation": navigation.Navigation,
    "corners": navigation.Corners,
    "bandit": bandits.Bandit,
    "correlated-bandit": bandits.CorrelatedBandit,
    "informative-bandit": bandits.InformativeBandit,
    "two-step": bandits.TwoStep,
    "mdp": mdps.MDP,
    "kernels": mdps.Kernels,
    "grid": mazes.Grid,
    "maze": mazes.Maze,
    "cartpole": control.CartPole,
    "acrobot": control.Acrobot,
    "pendulum": control.Pendulum,
    "xland": xland.XLand,
}

# Where a method differs with the kind of tasks it is given several times; the first that suits the tasks is taken.
METHODS: dict[str, tuple[type[MethodConfig], ...]] = {
    "maml": (gradient.MAML, policy_gradient.MAML),
    "fomaml": (gradient.FOMAML,),
    "imaml": (gradient.IMAML,),
    "anil": (gradient.ANIL,),
    "cavia": (gradient.CAVIA,),
    "meta-sgd": (gradient.MetaSGD,),
    "reptile": (gradient.Reptile, policy_gradient.Reptile),
    "meta-lstm": (gradient.MetaLSTM,),
    "learned-optimizer": (gradient.LearnedOptimizer,),
    "task-memory": (gradient.TaskMemory,),
    "pretrained": (gradient.Pretrained,),
    "proto": (metric.Prototypical,),
    "matching": (metric.Matching,),
    "snail": (metric.SNAIL,),
    "meta-networks": (metric.MetaNetworks,),
    "lstm": (streams.LSTM,),
    "mann": (streams.MANN,),
    "rl2": (rl2.RL2,),
    "varibad": (rl2.VariBAD,),
    "mpo": (mpo.MPO,),
    "mktn": (mktn.Regression, mktn.Control),
    "mml": (mml.MML,),
    "q-learning": (tabular.QLearning,),
    "dyna-q": (tabular.DynaQ,),
    "psrl": (tabular.PSRL,),
    "r-max": (tabular.RMax,),
    "meta-gradient": (learned_rl.MetaGradient,),
    "lpg": (learned_rl.LPG,),
    "reinforce": (inner_rl.Reinforce,),
    "a2c": (inner_rl.A2C,),
    "ppo": (inner_rl.PPO,),
    "dqn": (inner_rl.DQN,),
    "ddpg": (inner_rl.DDPG,),
    "td3": (inner_rl.TD3,),
}
